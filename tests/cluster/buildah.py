"""buildah, with a storage of its own under the cache folder."""

import subprocess
from typing import Final

from tests.cluster.host import CACHE, HostError

BUILDAH: Final = (
    "buildah",
    f"--root={CACHE / 'images'}",
    "--runroot=/run/annotationrun-images",
    "--storage-driver=overlay",
)


def buildah(*arguments: str) -> str:
    """Call buildah; returns what it prints, or raises HostError."""
    return run_tool(*BUILDAH, *arguments)


def has_image(name: str) -> bool:
    """True if an image of that name is there."""
    command = [*BUILDAH, "inspect", "--type=image", name]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run_tool(*command: str) -> str:
    """Run a program of this machine to its end; HostError, with the end of its output, if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise HostError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout
