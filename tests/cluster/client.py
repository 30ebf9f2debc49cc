"""kubectl, aimed at one cluster, and a way to its API server for what is asked often."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.kube_api import KubeApi

CALL_TIMEOUT_SECONDS = 600.0


class CommandError(RuntimeError):
    """kubectl or helm failed; the text is the command and all it said."""


@dataclass(frozen=True)
class Client:
    """Calls kubectl with the rights of the kubeconfig's user."""

    kubeconfig: Path
    kubectl_program: Path | str

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """Call kubectl; returns what it prints on stdout.

        Raises:
            CommandError: it failed; with its stderr.
        """
        return run_client([self.kubectl_program, f"--kubeconfig={self.kubeconfig}", *arguments], stdin)


@dataclass(frozen=True)
class ConnectedClient(Client):
    """Asks the API server itself too: a call takes milliseconds, kubectl a tenth of a second."""

    api: KubeApi


@contextlib.contextmanager
def connected(client: Client) -> Iterator[ConnectedClient]:
    """Connect by `kubectl proxy`, which knows every way of a kubeconfig to prove who one is."""
    command = [client.kubectl_program, f"--kubeconfig={client.kubeconfig}", "proxy", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            said = proxy.stdout.readline()  # Starting to serve on 127.0.0.1:PORT
            assert said.startswith("Starting to serve on "), said
            api = KubeApi(f"http://{said.split()[-1]}")
            with contextlib.closing(api):
                yield ConnectedClient(client.kubeconfig, client.kubectl_program, api)
        finally:
            proxy.terminate()


def run_client(command: list[str | Path], stdin: str | None = None) -> str:
    """Run a program to its end; CommandError if it fails."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, timeout=CALL_TIMEOUT_SECONDS
    )
    if done.returncode != 0:
        raise CommandError(
            f"{' '.join(map(str, command[2:]))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout
