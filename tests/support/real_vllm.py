"""A real vLLM on this machine, without a GPU, serving a tiny model of random weights."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from prometheus_client.parser import text_string_to_metric_families

ENVIRONMENT: Final = Path(__file__).parents[1] / "vllm" / "environment.sh"
SERVED_NAME: Final = "tiny-vl"
START_SECONDS: Final = 480.0
"""It takes 40 on two idle cores."""
STOP_SECONDS: Final = 60.0
FOR_CPUS: Final = ("--dtype=bfloat16", "--enforce-eager", "--no-enable-chunked-prefill")
"""The last: vLLM 0.32 on CPUs dies of a request with a seed whose prompt is prefilled in pieces."""
_LOG_CHARACTERS: Final = 4000
_ANSWERED: Final = ("stop", "length")
"""Why vLLM was done with a request that it answered (``finished_reason``)."""

Weights = Literal["vision", "text"]


class VllmError(RuntimeError):
    """vLLM ended, or did not come up; the end of its log is in the text."""


@dataclass(frozen=True)
class RealVllm:
    """A running server."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"

    def metrics(self) -> str:
        """What it says of itself now, in Prometheus' text format."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=60) as response:
            return str(response.read().decode())

    def metric(self, name: str, **labels: Sequence[str]) -> float:
        """A metric, summed over its labels; of ``labels`` only the values given are summed."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.metrics())
            for sample in family.samples
            if sample.name == name and all(sample.labels[label] in kept for label, kept in labels.items())
        )

    def answered(self) -> int:
        """Requests that it has answered since it was started."""
        return int(self.metric("vllm:request_success_total", finished_reason=_ANSWERED))

    def log_end(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-_LOG_CHARACTERS:]


def vllm_folder() -> Path:
    """The environment and the models, made if they are not there."""
    done = subprocess.run([ENVIRONMENT], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@contextmanager
def real_vllm(
    folder: Path,
    *,
    weights: Weights = "vision",
    max_model_len: int = 16384,
    served_model_name: str = SERVED_NAME,
    images_per_prompt: int = 32,
    arguments: Sequence[str] = (),
    model: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[RealVllm]:
    """A server that is healthy; it is stopped, with all its processes, at the end.

    Args:
        folder: where its log and caches go.
        weights: ``vision`` takes images, ``text`` does not.
        max_model_len: tokens of prompt and answer together.
        served_model_name: the model's name for clients.
        images_per_prompt: more are refused.
        arguments: further ones of ``vllm serve``; of an option twice, the last holds.
        model: its name on the Hub, in place of the weights' folder.
        variables: of its environment, beside ours.

    Raises:
        VllmError: it ended before it was healthy, or is not healthy in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "vllm.log"
    environment = vllm_folder()
    limits = [f'--limit-mm-per-prompt={{"image":{images_per_prompt}}}'] if weights == "vision" else []
    with _reserved_port() as port, log.open("wb") as output:
        process = subprocess.Popen(
            [
                environment / "env/bin/vllm", "serve", model or environment / "models" / weights,
                "--host=127.0.0.1", f"--port={port}", f"--served-model-name={served_model_name}",
                f"--max-model-len={max_model_len}", *FOR_CPUS, *limits, *arguments,
            ],
            env=_variables(folder) | dict(variables or {}), cwd=folder, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        server = RealVllm(f"http://127.0.0.1:{port}", process, log)
        try:
            _wait_until_healthy(server)
            yield server
        finally:
            _stop(process)


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A port that nobody else is given meanwhile; vLLM opens it beside us, as neither of us listens yet."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield int(reserved.getsockname()[1])


def _variables(folder: Path) -> dict[str, str]:
    """The process's environment: nothing is downloaded or reported, caches go into ``folder``."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG") if name in os.environ}
    return kept | {
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }


def _wait_until_healthy(server: RealVllm) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _is_healthy(server):
        if server.process.poll() is not None:
            raise VllmError(f"vLLM ended with {server.process.returncode}; its log:\n{server.log_end()}")
        if time.monotonic() > deadline:
            raise VllmError(f"vLLM is not healthy after {START_SECONDS:g} s; its log:\n{server.log_end()}")
        time.sleep(0.5)


def _is_healthy(server: RealVllm) -> bool:
    try:
        with urllib.request.urlopen(f"{server.address}/health", timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):  # of its engine nothing is left over
        os.killpg(process.pid, signal.SIGKILL)
