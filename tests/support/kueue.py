"""Kueue's real manager beside a real API server; its manifests are its own, but for where webhooks listen.

The Job controller and the garbage collector, which Kueue builds upon, are real too.
"""

import json
import subprocess
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from tests.cluster.boot import build_programs
from tests.cluster.control_plane import controller_manager_command
from tests.cluster.processes import Processes
from tests.support.api_server import ApiServer, api_server
from tests.support.held_ports import held_ports

BUILD: Final = Path(__file__).with_name("kueue.sh")
GROUP: Final = "/apis/kueue.x-k8s.io/v1beta2"
QUEUE: Final = "gpus"
"""The LocalQueue of every namespace that has one."""
NODES: Final = {"pool": "annotation"}
TOLERATION: Final = {"key": "pool", "operator": "Equal", "value": "annotation", "effect": "NoSchedule"}
_SYSTEM = "kueue-system"
_SECRET = f"/api/v1/namespaces/{_SYSTEM}/secrets/kueue-webhook-server-cert"
_INSTALLED = frozenset(
    {
        "Namespace",
        "CustomResourceDefinition",
        "Secret",
        "Service",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
    }
)
"""Of Kueue's manifests; the rest is about its Deployment, whose part is taken by a process."""
_STARTS_WITHIN_SECONDS = 300.0

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Kueue:
    """A manager at work, and the API server that it works for."""

    server: ApiServer
    processes: Processes

    def log_end(self) -> str:
        return self.processes.log_ends(["kueue"])

    def add_cluster_queue(self, name: str, quota: Mapping[str, str]) -> None:
        """A ClusterQueue for all namespaces, of one flavor of nodes of the same name."""
        flavor = {
            **_head("ResourceFlavor", name),
            "spec": {"nodeLabels": NODES, "tolerations": [TOLERATION]},
        }
        resources = [{"name": resource, "nominalQuota": amount} for resource, amount in quota.items()]
        group = {"coveredResources": list(quota), "flavors": [{"name": name, "resources": resources}]}
        queue = {
            **_head("ClusterQueue", name),
            "spec": {
                "namespaceSelector": {},
                "resourceGroups": [group],
                "preemption": {"withinClusterQueue": "LowerPriority"},
            },
        }
        self.server.api.create(f"{GROUP}/resourceflavors", flavor)
        self.server.api.create(f"{GROUP}/clusterqueues", queue)

    def add_local_queue(self, namespace: str, cluster_queue: str) -> None:
        """The queue of a namespace, which leads to a ClusterQueue."""
        queue = {**_head("LocalQueue", QUEUE), "spec": {"clusterQueue": cluster_queue}}
        self.server.api.create(f"{GROUP}/namespaces/{namespace}/localqueues", queue)

    def add_priority(self, name: str, value: int) -> None:
        """A WorkloadPriorityClass; Jobs without one have priority 0."""
        priority = {**_head("WorkloadPriorityClass", name), "value": value}
        self.server.api.create(f"{GROUP}/workloadpriorityclasses", priority)

    def set_stop_policy(self, cluster_queue: str, policy: str) -> None:
        """None, Hold, or HoldAndDrain: what is admitted is evicted."""
        self.server.api.patch(f"{GROUP}/clusterqueues/{cluster_queue}", {"spec": {"stopPolicy": policy}})

    def workloads(self, namespace: str) -> list[Manifest]:
        return self.server.api.items(f"{GROUP}/namespaces/{namespace}/workloads")


@contextmanager
def kueue_manager(folder: Path) -> Iterator[Kueue]:
    """Start one in an empty folder, with an API server of its own, and stop both.

    Of its own, because Kueue's webhooks see the Jobs of all namespaces.
    """
    built = subprocess.run([BUILD], stdout=subprocess.PIPE, text=True, check=True)
    program, programs = Path(built.stdout.strip()), build_programs()
    (folder / "server").mkdir()
    with api_server(folder / "server") as server, held_ports(2) as ports:
        processes = Processes(folder)
        try:
            _start_manager(processes, server, program, programs, ports)
            manager = controller_manager_command(
                programs / "kube-controller-manager", server.certificates, server.kubeconfig
            )
            wanted = "--controllers=job-controller,garbage-collector-controller"
            processes.start("controller-manager", [*manager, wanted, "--secure-port=0"])
            yield Kueue(server, processes)
        finally:
            processes.stop_all()


def _start_manager(
    processes: Processes, server: ApiServer, program: Path, programs: Path, ports: tuple[int, ...]
) -> None:
    folder, (health_port, webhook_port) = processes.folder, ports
    kubectl = [programs / "kubectl", f"--kubeconfig={server.kubeconfig}"]
    installed = _manifests(program / "config", programs / "kubectl", webhook_port)
    subprocess.run(
        [*kubectl, "apply", "--server-side", "--filename=-"],
        input=yaml.safe_dump_all(installed),
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    certificates = folder / "webhook-certificates"
    certificates.mkdir(mode=0o700)
    configuration = folder / "kueue.json"
    configuration.write_text(
        json.dumps(_configuration(certificates, health_port, webhook_port)), encoding="utf-8"
    )
    processes.start(
        "kueue",
        [program / "kueue", f"--config={configuration}", f"--kubeconfig={server.kubeconfig}"],
    )
    processes.wait_until(
        "Kueue's certificate",
        lambda: _mount_secret(server.api.get(_SECRET), certificates),
        _STARTS_WITHIN_SECONDS,
    )
    processes.wait_until(
        "Kueue's manager", lambda: _is_up(f"http://127.0.0.1:{health_port}/readyz"), _STARTS_WITHIN_SECONDS
    )


def _manifests(config: Path, kubectl: Path, webhook_port: int) -> list[Manifest]:
    """Kueue's own; its webhooks are called on this machine, by the name that their certificate is for."""
    rendered = subprocess.run(
        [kubectl, "kustomize", config / "default"], stdout=subprocess.PIPE, text=True, check=True
    )
    found = [one for one in yaml.safe_load_all(rendered.stdout) if one["kind"] in _INSTALLED]
    for manifest in found:
        if manifest["kind"] == "Service":
            manifest["spec"] = {"type": "ExternalName", "externalName": "localhost"}
        for client in _webhook_clients(manifest):
            client["service"]["port"] = webhook_port
    return found


def _webhook_clients(manifest: Manifest) -> Iterator[Manifest]:
    for webhook in manifest.get("webhooks", ()):
        yield webhook["clientConfig"]
    conversion = manifest.get("spec", {}).get("conversion", {})
    if "webhook" in conversion:
        yield conversion["webhook"]["clientConfig"]


def _configuration(certificates: Path, health_port: int, webhook_port: int) -> Manifest:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health_port}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": webhook_port, "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        "integrations": {"frameworks": ["batch/job"]},
        # Its server has a port that can't be chosen.
        "featureGates": {"VisibilityOnDemand": False},
    }


def _mount_secret(secret: Manifest, folder: Path) -> bool:
    """Do what the kubelet does with a volume of a Secret, once the manager has filled it."""
    data = secret.get("data", {})
    if "tls.crt" not in data:
        return False
    for name in sorted(data, key=lambda name: name == "tls.crt"):  # the manager waits for this one
        (folder / name).write_bytes(b64decode(data[name]))
    return True


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _head(kind: str, name: str) -> Manifest:
    return {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": {"name": name}}
