"""A real etcd and API server, with the CRD and nothing else: no controller, no node. Needs no root."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import yaml
from tests.cluster.boot import build_programs
from tests.cluster.certificates import Certificates
from tests.cluster.control_plane import free_ports, make_certificates, start_api_server
from tests.cluster.host import API_SERVER_PACKAGES, install
from tests.cluster.processes import Processes
from tests.support.kube_api import KubeApi, wait_for

CRD = Path(__file__).parents[2] / "crds" / "annotationruns.yaml"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_numbers = count(1)


@dataclass(frozen=True)
class ApiServer:
    """How to reach it, with all rights."""

    api: KubeApi
    kubeconfig: Path
    certificates: Certificates

    def new_namespace(self) -> str:
        """The name of a namespace that is new and empty."""
        name = f"test-{next(_numbers)}"
        metadata = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.api.create("/api/v1/namespaces", metadata)
        return name

    def install_crd(self) -> None:
        """Create the CRD, and wait until it is served."""
        crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
        self.api.create(_CRDS, crd)

        def is_established() -> bool:
            found = self.api.get(f"{_CRDS}/{crd['metadata']['name']}")
            conditions = found.get("status", {}).get("conditions") or []
            return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

        wait_for("the CRD", is_established)

    def set_quota(self, namespace: str, resource: str) -> None:
        """Allow none of a resource in a namespace."""
        quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
        hard = {f"count/{resource}": "0"}
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "none"},
            "spec": {"hard": hard},
        }
        self.api.create(quotas, quota)
        # No quota controller runs here: its part is to say what is used.
        self.api.patch(f"{quotas}/none/status", {"status": {"hard": hard, "used": hard}})

    def user(self, name: str) -> Path:
        """The kubeconfig of a user without any rights."""
        self.certificates.issue(name, f"/CN={name}")
        return self.certificates.write_kubeconfig(name, self.api.server)

    def allow(self, user: str, namespace: str, rules: Sequence[Mapping[str, object]]) -> None:
        """Give a user a role in a namespace."""
        group = "rbac.authorization.k8s.io"
        path = f"/apis/{group}/v1/namespaces/{namespace}"
        head = {"apiVersion": f"{group}/v1", "metadata": {"name": user}}
        self.api.create(f"{path}/roles", {**head, "kind": "Role", "rules": rules})
        subject = {"kind": "User", "name": user, "apiGroup": group}
        role = {"kind": "Role", "name": user, "apiGroup": group}
        binding = {**head, "kind": "RoleBinding", "subjects": [subject], "roleRef": role}
        self.api.create(f"{path}/rolebindings", binding)


@contextmanager
def api_server(folder: Path, *, with_crd: bool = True) -> Iterator[ApiServer]:
    """Start one in an empty folder, and stop it."""
    install(API_SERVER_PACKAGES)
    programs, ports = build_programs(), free_ports()
    certificates = make_certificates(folder / "certificates", ["127.0.0.1"])
    address = f"https://127.0.0.1:{ports.api_server}"
    kubeconfig = certificates.write_kubeconfig("admin", address)
    processes = Processes(folder)
    api = KubeApi(
        address, certificates.authority, certificates.certificate("admin"), certificates.key("admin")
    )
    try:
        start_api_server(processes, programs, certificates, ports, kubeconfig)
        server = ApiServer(api, kubeconfig, certificates)
        if with_crd:
            server.install_crd()
        yield server
    finally:
        api.close()
        processes.stop_all()
