"""What a cluster asks of this machine: Linux, root, Debian packages and disk.

The packages are installed with apt if they are missing. Their services are neither used nor stopped: every
program is started here with sockets and folders of its own.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "annotationrun"
APT_LOCK_SECONDS: Final = 600
"""So long another installation is waited for."""
DISK_NEEDED_BYTES: Final = 12 * 1024**3
"""While everything is built: about 9 GB of it stay."""
API_SERVER_PACKAGES: Final[Mapping[str, str]] = {"etcd": "etcd-server", "openssl": "openssl"}
"""By a program that it has: the Debian package that an API server by itself needs."""
CLUSTER_PACKAGES: Final[Mapping[str, str]] = {
    **API_SERVER_PACKAGES,
    "buildah": "buildah",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "ip": "iproute2",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "nsenter": "util-linux",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}


class HostError(RuntimeError):
    """This machine can't run a cluster; the text says what is missing."""


def say(message: str) -> None:
    """A line on stderr, at once."""
    sys.stderr.write(f"cluster: {message}\n")
    sys.stderr.flush()


def check_host() -> None:
    """Raise HostError if a cluster can't be built and run here, whatever is installed."""
    if sys.platform != "linux":
        raise HostError(f"a cluster needs Linux, this is {sys.platform}; {OTHER_CLUSTER}")
    if os.geteuid() != 0:
        raise HostError(
            f"a cluster needs root (namespaces, mounts, apt), this is user {os.geteuid()}; {OTHER_CLUSTER}"
        )


OTHER_CLUSTER: Final = "set KUBECONFIG to use another cluster"


def check_disk(built: bool) -> None:
    """Raise HostError if there is not enough disk: for all of it, or, once it is ``built``, for a run."""
    CACHE.mkdir(parents=True, exist_ok=True)
    needed = DISK_NEEDED_BYTES // 4 if built else DISK_NEEDED_BYTES
    free = shutil.disk_usage(CACHE).free
    if free < needed:
        raise HostError(
            f"{CACHE} has {free / 1024**3:.1f} GiB free, a cluster needs {needed / 1024**3:.0f} GiB; "
            "remove something, or set XDG_CACHE_HOME to another disk"
        )


def install(packages: Mapping[str, str]) -> None:
    """Install those of ``packages`` whose program is missing.

    Raises:
        HostError: not root, not Debian, or apt failed.
    """
    missing = sorted(package for program, package in packages.items() if not find(program))
    if not missing:
        return
    names = ", ".join(missing)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise HostError(
            f"the Debian packages {names} are missing; install them, or run this as root on Debian"
        )
    say(f"installing {names}")
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", "-q", "-o", f"DPkg::Lock::Timeout={APT_LOCK_SECONDS}", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )
        if done.returncode != 0:
            raise HostError(f"apt-get {arguments[0]} failed for {names}:\n{done.stdout[-2000:]}")


def find(program: str) -> str | None:
    """Path of a program; root's folders are searched too, which a user's PATH may lack."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
