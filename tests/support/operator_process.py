"""The operator as a process of its own, against a real API server."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.kube_api import wait_for

_PORT = re.compile(r"health on port (\d+), metrics on port (\d+)")
_ROOT = Path(__file__).parents[2]


@dataclass
class OperatorProcess:
    """A running operator."""

    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    @property
    def ports(self) -> tuple[int, int]:
        """Of health and of metrics."""

        def found() -> re.Match[str] | None:
            assert self.process.poll() is None, self.log
            return _PORT.search(self.log)

        health, metrics = wait_for("the operator's ports", found).groups()
        return int(health), int(metrics)

    def health(self, path: str = "/healthz") -> tuple[int, str]:
        return _get(f"http://127.0.0.1:{self.ports[0]}{path}")

    def metrics(self) -> str:
        return _get(f"http://127.0.0.1:{self.ports[1]}/metrics")[1]

    def wait_until_ready(self) -> None:
        wait_for("the operator", lambda: self.health("/readyz")[0] == 200)

    def wait(self) -> int:
        """The exit code, once it has ended by itself."""
        return self.process.wait(timeout=120)

    def stop(self) -> float:
        """SIGTERM; returns the seconds until it has ended."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0, self.log
        return time.monotonic() - began


def operator_environment(kubeconfig: Path, namespace: str) -> dict[str, str]:
    """This process's environment with the settings of an operator, on ports that are free."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANNOTATIONRUN_")},
        "KUBECONFIG": str(kubeconfig),
        "ANNOTATIONRUN_NAMESPACES": namespace,
        "ANNOTATIONRUN_HEALTH_PORT": "0",
        "ANNOTATIONRUN_METRICS_PORT": "0",
        "ANNOTATIONRUN_WORKER_IMAGE": "worker:1",
        "ANNOTATIONRUN_VLLM_IMAGE": "vllm:1",
    }


@contextmanager
def operator_process(
    folder: Path, kubeconfig: Path, namespace: str, **settings: str
) -> Iterator[OperatorProcess]:
    """An operator that serves one namespace (or all: empty), killed in the end if it still runs."""
    number = len(list(folder.glob("operator-*.log")))
    log_path = folder / f"operator-{number}.log"
    environment = {**operator_environment(kubeconfig, namespace), **settings}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "annotationrun_operator"],
            cwd=_ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield OperatorProcess(process, log_path)
    finally:
        process.kill()
        process.wait()


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
