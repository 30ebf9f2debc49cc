"""kubectl and helm, aimed at one cluster."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

CALL_TIMEOUT_SECONDS = 300.0


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
