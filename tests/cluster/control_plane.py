"""etcd and the API server, and the controllers that need no node."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.certificates import Certificates
from tests.cluster.network import NODE_ADDRESS, SERVICE_RANGE
from tests.cluster.processes import Processes

STARTS_WITHIN_SECONDS = 300.0
FIRST_SERVICE_ADDRESS = "10.96.0.1"
NODE = "annotationrun-node"


@dataclass(frozen=True)
class Ports:
    """Where etcd and the API server listen."""

    etcd: int = 2379
    etcd_peer: int = 2380
    api_server: int = 6443


def make_certificates(folder: Path, addresses: Sequence[str]) -> Certificates:
    """Certificates of the control plane and of the node; the API server's is good for ``addresses``."""
    certificates = Certificates(folder)
    names = ["DNS:localhost", "DNS:kubernetes.default.svc", f"IP:{FIRST_SERVICE_ADDRESS}"]
    names += [f"IP:{address}" for address in addresses]
    certificates.issue("api-server", "/CN=kube-apiserver", names)
    certificates.issue("admin", "/O=system:masters/CN=admin")
    certificates.issue("controller-manager", "/CN=system:kube-controller-manager")
    certificates.issue("scheduler", "/CN=system:kube-scheduler")
    certificates.issue("proxy", "/CN=system:kube-proxy")
    certificates.issue("node", f"/O=system:nodes/CN=system:node:{NODE}")
    return certificates


def etcd_command(folder: Path, ports: Ports) -> list[str]:
    """etcd on the loopback interface."""
    client, peer = f"http://127.0.0.1:{ports.etcd}", f"http://127.0.0.1:{ports.etcd_peer}"
    return [
        "etcd",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # what a power cut would lose is of no use
        "--log-level=warn",
    ]


def api_server_command(
    program: Path, certificates: Certificates, ports: Ports, extra: Sequence[str]
) -> list[str]:
    """The API server, with the settings that every cluster here has, and ``extra`` ones."""
    of = certificates
    return [
        str(program),
        f"--etcd-servers=http://127.0.0.1:{ports.etcd}",
        f"--secure-port={ports.api_server}",
        f"--cert-dir={certificates.folder}",
        f"--tls-cert-file={of.certificate('api-server')}",
        f"--tls-private-key-file={of.key('api-server')}",
        f"--client-ca-file={of.authority}",
        f"--kubelet-client-certificate={of.certificate('admin')}",
        f"--kubelet-client-key={of.key('admin')}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={of.key('tokens')}",
        f"--service-account-key-file={of.certificate('tokens')}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--advertise-address={NODE_ADDRESS}",
        "--authorization-mode=Node,RBAC",
        *extra,
    ]


def start_api_server(
    processes: Processes, programs: Path, certificates: Certificates, ports: Ports, kubeconfig: Path
) -> None:
    """An etcd and an API server on the loopback interface of this machine, and nothing else.

    Nobody makes service accounts here, so pods are admitted without.

    Raises:
        ProcessError: one of them ended, or the API server did not get ready.
    """
    processes.start("etcd", etcd_command(processes.folder, ports))
    extra = ["--bind-address=127.0.0.1", "--disable-admission-plugins=ServiceAccount"]
    command = api_server_command(programs / "kube-apiserver", certificates, ports, extra)
    processes.start("kube-apiserver", command)
    wait_for_api_server(processes, programs, kubeconfig)


def wait_for_api_server(processes: Processes, programs: Path, kubeconfig: Path) -> None:
    """Wait until the API server answers that it is ready, and has made the namespace ``default``."""
    call = [str(programs / "kubectl"), f"--kubeconfig={kubeconfig}", "--request-timeout=10s", "get"]

    def ready() -> bool:
        return all(
            subprocess.run([*call, *what], capture_output=True, check=False).returncode == 0
            for what in (["--raw", "/readyz"], ["namespace", "default"])
        )

    processes.wait_until("the API server", ready, STARTS_WITHIN_SECONDS)


def controller_manager_command(program: Path, certificates: Certificates, kubeconfig: Path) -> list[str]:
    """All of Kubernetes' controllers, each with a service account of its own.

    A claim that is seen before its volume is looked at again after a second; by default it is 15.
    """
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--cert-dir={certificates.folder}",
        f"--root-ca-file={certificates.authority}",
        f"--service-account-private-key-file={certificates.key('tokens')}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--pvclaimbinder-sync-period=1s",
    ]


def scheduler_command(program: Path, certificates: Certificates, kubeconfig: Path) -> list[str]:
    """The scheduler."""
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--cert-dir={certificates.folder}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    ]
