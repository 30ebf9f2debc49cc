"""The one node of the cluster: containerd, the kubelet and kube-proxy, and what they are told."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.certificates import Certificates
from tests.cluster.control_plane import NODE
from tests.cluster.network import BRIDGE, NODE_ADDRESS, POD_RANGE
from tests.cluster.processes import Processes

CONTAINERS: Final = "k8s.io"
"""containerd's namespace of what the kubelet starts."""
PAUSE_IMAGE: Final = "localhost/annotationrun-pause:1"


@dataclass(frozen=True)
class NodeFolders:
    """Where the node keeps its things: what goes with the cluster, and images, which stay."""

    cluster: Path
    images: Path

    @property
    def socket(self) -> Path:
        return self.cluster / "containerd.sock"

    @property
    def kubelet(self) -> Path:
        return self.cluster / "kubelet"

    @property
    def network(self) -> Path:
        return self.cluster / "cni"


def containerd_settings(folders: NodeFolders) -> str:
    """containerd's config.toml."""
    return f"""\
version = 2
root = "{folders.images}"
state = "{folders.cluster}/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
                    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{folders.socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE, which containers that tests run in may lack, no process can lower its score.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folders.network}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def network_settings(folders: NodeFolders) -> Mapping[str, object]:
    """The chain of CNI plugins: pods on a bridge, behind the node's address for whoever is outside."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isDefaultGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": POD_RANGE, "gateway": NODE_ADDRESS}]],
            "dataDir": str(folders.cluster / "addresses"),
        },
    }
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def kubelet_settings(folders: NodeFolders, certificates: Certificates) -> Mapping[str, object]:
    """The kubelet's configuration; both cgroup versions will do."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificates.authority)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{folders.socket}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "enforceNodeAllocatable": [],
        # A full disk or little memory is the machine's business: nothing is evicted before it is short.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
        "podLogsDir": str(folders.cluster / "logs"),
        "volumePluginDir": str(folders.cluster / "volume-plugins"),
        # There is no name server; where nobody listens, names fail at once instead of after a time-out.
        "clusterDNS": [NODE_ADDRESS],
        "resolvConf": "",
        "clusterDomain": "cluster.local",
        "shutdownGracePeriod": "0s",
    }


def proxy_settings(kubeconfig: Path) -> Mapping[str, object]:
    """kube-proxy's configuration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": NODE,
        # Limits of the whole machine's connection tracking are left alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def write_node_settings(folders: NodeFolders, certificates: Certificates, server: str) -> None:
    """Write every file that the node's programs read."""
    for folder in (folders.images, folders.network, folders.kubelet):
        folder.mkdir(parents=True, exist_ok=True)
    (folders.cluster / "containerd.toml").write_text(containerd_settings(folders), encoding="utf-8")
    for path, content in (
        (folders.network / "10-pods.conflist", network_settings(folders)),
        (folders.cluster / "kubelet.json", kubelet_settings(folders, certificates)),
        (folders.cluster / "proxy.json", proxy_settings(certificates.write_kubeconfig("proxy", server))),
    ):
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def kubelet_command(program: Path, folders: NodeFolders, kubeconfig: Path) -> list[str]:
    """The kubelet."""
    return [
        str(program),
        f"--config={folders.cluster / 'kubelet.json'}",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={folders.kubelet}",
        f"--cert-dir={folders.cluster / 'certificates'}",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_ADDRESS}",
    ]


def ctr_command(folders: NodeFolders, *arguments: str | Path) -> list[str | Path]:
    """A call of containerd's client."""
    return ["ctr", f"--address={folders.socket}", f"--namespace={CONTAINERS}", *arguments]


def ctr(folders: NodeFolders, *arguments: str | Path) -> str:
    """Call containerd's client; returns what it prints."""
    command = ctr_command(folders, *arguments)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def containerd_answers(folders: NodeFolders) -> bool:
    """True once containerd can be asked."""
    command = ["ctr", f"--address={folders.socket}", "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def remove_containers(folders: NodeFolders) -> None:
    """Kill and remove every container; the kubelet has to be gone, or it starts them again."""
    namespaces = set()
    for container in ctr(folders, "containers", "list", "--quiet").split():
        spec = json.loads(ctr(folders, "containers", "info", "--spec", container))
        namespaces |= {Path(entry["path"]) for entry in spec["linux"]["namespaces"] if _is_network(entry)}
        # A container whose process is gone has no task, which is an error to the first of the two.
        subprocess.run(
            ctr_command(folders, "tasks", "delete", "--force", container), capture_output=True, check=False
        )
        ctr(folders, "containers", "delete", container)
    for path in namespaces:
        if path.exists():  # a pod's, in /run/netns; containers of one pod share it
            subprocess.run(["ip", "netns", "delete", path.name], check=True)


def _is_network(namespace: Mapping[str, str]) -> bool:
    return namespace["type"] == "network" and namespace.get("path", "").startswith("/var/run/netns/")


def unmount_and_remove(folder: Path) -> None:
    """Remove a folder, after all that is mounted below it is unmounted, the deepest first."""
    mounts = [
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    ]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{folder}/")]):
        subprocess.run(["umount", "--lazy", mount], check=True)
    if folder.exists():
        shutil.rmtree(folder)


def remove_cgroups() -> None:
    """Remove the cgroups of the pods, which are empty by now."""
    for top in [*Path("/sys/fs/cgroup").glob("*/kubepods"), *Path("/sys/fs/cgroup").glob("kubepods")]:
        for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        top.rmdir()


def start_containerd(processes: Processes, folders: NodeFolders, inside: tuple[str, ...]) -> None:
    """Start containerd, and wait until it answers."""
    processes.start("containerd", [*inside, "containerd", "--config", folders.cluster / "containerd.toml"])
    processes.wait_until("containerd", lambda: containerd_answers(folders), within_seconds=300)
