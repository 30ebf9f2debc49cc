"""The network namespace that a cluster lives in, and the link to it.

Pods, services and the API server share one namespace that has no way out of this machine. A link joins it to
the machine's own: tests and kubectl reach the API server at CLUSTER_ADDRESS, pods reach servers of the tests
at HOST_ADDRESS. The addresses of the link are of a range that is kept for tests of networks (RFC 2544).
"""

import subprocess
from pathlib import Path
from typing import Final

NAMESPACE: Final = "annotationrun"
HOST_ADDRESS: Final = "198.18.244.1"
CLUSTER_ADDRESS: Final = "198.18.244.2"
NODE_ADDRESS: Final = "10.244.0.1"
"""Of the bridge that pods hang on, which is also the node's."""
POD_RANGE: Final = "10.244.0.0/16"
SERVICE_RANGE: Final = "10.96.0.0/16"
BRIDGE: Final = "cni0"
HOST_END: Final = "annotationrun0"
CLUSTER_END: Final = "uplink0"
INSIDE: Final = ("nsenter", f"--net=/run/netns/{NAMESPACE}")
"""Before a command: run it in the namespace. `ip netns exec` would hide the cgroups."""


def make_network() -> None:
    """Make the namespace, the link and the bridge."""
    _run("ip", "netns", "add", NAMESPACE)
    _run("ip", "link", "add", HOST_END, "type", "veth", "peer", "name", CLUSTER_END, "netns", NAMESPACE)
    _run("ip", "address", "add", f"{HOST_ADDRESS}/30", "dev", HOST_END)
    _run("ip", "link", "set", HOST_END, "up")
    for command in (
        "ip link set lo up",
        f"ip address add {CLUSTER_ADDRESS}/30 dev {CLUSTER_END}",
        f"ip link set {CLUSTER_END} up",
        f"ip link add {BRIDGE} type bridge",
        f"ip address add {NODE_ADDRESS}/16 dev {BRIDGE}",
        f"ip link set {BRIDGE} up",
        # The kubelet and the API server look for a default route; it leads nowhere.
        f"ip route add default via {NODE_ADDRESS} dev {BRIDGE}",
        "sysctl -q -w net.ipv4.ip_forward=1",
    ):
        _run(*INSIDE, *command.split())


def remove_network() -> None:
    """Remove what is there of it."""
    if Path(f"/sys/class/net/{HOST_END}").exists():
        _run("ip", "link", "delete", HOST_END)
    if Path(f"/run/netns/{NAMESPACE}").exists():
        _run("ip", "netns", "delete", NAMESPACE)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
