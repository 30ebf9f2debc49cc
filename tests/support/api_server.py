"""A real etcd and API server, with the CRD and nothing else: no controller, no node. Needs no root."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path

import yaml
from tests.cluster.boot import build_programs
from tests.cluster.certificates import Certificates
from tests.cluster.control_plane import Ports, make_certificates, start_api_server
from tests.cluster.host import API_SERVER_PACKAGES, install
from tests.cluster.processes import Processes
from tests.support.held_ports import held_ports
from tests.support.kube_api import JOBS, ApiError, ClientCertificate, KubeApi, wait_for

CRD = Path(__file__).parents[2] / "crds" / "annotationruns.yaml"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_ALL_RUNS = "/apis/annotationrun.dev/v1alpha1/annotationruns"
_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
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
        """Create the CRD, and wait until it is served: that comes a moment after it is Established."""
        crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
        self.api.create(_CRDS, crd)

        def is_served() -> bool:
            found = self.api.get(f"{_CRDS}/{crd['metadata']['name']}")
            conditions = found.get("status", {}).get("conditions") or []
            is_established = any(
                one["type"] == "Established" and one["status"] == "True" for one in conditions
            )
            return is_established and self._has(_ALL_RUNS)

        wait_for("the CRD", is_served)

    def _has(self, path: str) -> bool:
        try:
            self.api.get(path)
        except ApiError as error:
            if error.code != 404:
                raise
            return False
        return True

    def forbid_jobs(self, namespace: str) -> None:
        """Give a namespace a quota of no Job, and wait until it counts."""
        quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
        hard = {"count/jobs.batch": "0"}
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "none"},
            "spec": {"hard": hard},
        }
        self.api.create(quotas, quota)
        # No quota controller runs here: its part is to say what is used.
        self.api.patch(f"{quotas}/none/status", {"status": {"hard": hard, "used": hard}})
        wait_for("the quota", lambda: "exceeded quota: none" in self._refusal_of_a_job(namespace))

    def _refusal_of_a_job(self, namespace: str) -> str:
        """What is said of a Job that is only tried; empty if it would be taken."""
        container = {"name": "c", "image": "i:1"}
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"generateName": "tried-"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
        }
        try:
            self.api.create(f"{JOBS.format(namespace)}?dryRun=All", job)
        except ApiError as error:
            return str(error)
        return ""

    def user(self, name: str) -> Path:
        """The kubeconfig of a user without any rights."""
        self.certificates.issue(name, f"/CN={name}")
        return self.certificates.write_kubeconfig(name, self.api.server)

    def allow(self, user: str, namespace: str, rules: Sequence[Mapping[str, Sequence[str]]]) -> None:
        """Give a user a role in a namespace, and wait until it counts."""
        group = "rbac.authorization.k8s.io"
        path = f"/apis/{group}/v1/namespaces/{namespace}"
        head = {"apiVersion": f"{group}/v1", "metadata": {"name": user}}
        self.api.create(f"{path}/roles", {**head, "kind": "Role", "rules": rules})
        subject = {"kind": "User", "name": user, "apiGroup": group}
        role = {"kind": "Role", "name": user, "apiGroup": group}
        binding = {**head, "kind": "RoleBinding", "subjects": [subject], "roleRef": role}
        self.api.create(f"{path}/rolebindings", binding)
        wait_for(f"the rights of {user}", lambda: all(self._may(user, namespace, rule) for rule in rules))

    def _may(self, user: str, namespace: str, rule: Mapping[str, Sequence[str]]) -> bool:
        """Whether a user may do all that a rule says."""
        return all(
            self._is_allowed(user, {"namespace": namespace, "group": group, "verb": verb}, resource)
            for group, resource, verb in product(rule["apiGroups"], rule["resources"], rule["verbs"])
        )

    def _is_allowed(self, user: str, attributes: Mapping[str, str], resource: str) -> bool:
        name, _, subresource = resource.partition("/")
        asked = {**attributes, "resource": name, "subresource": subresource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": asked},
        }
        return bool(self.api.create(_REVIEWS, review)["status"]["allowed"])


@contextmanager
def api_server(folder: Path, *, with_crd: bool = True) -> Iterator[ApiServer]:
    """Start one in an empty folder, and stop it."""
    install(API_SERVER_PACKAGES)
    programs = build_programs()
    certificates = make_certificates(folder / "certificates", ["127.0.0.1"])
    processes = Processes(folder)
    admin = ClientCertificate(
        certificates.authority, certificates.certificate("admin"), certificates.key("admin")
    )
    with held_ports(3) as numbers:
        ports = Ports(*numbers)
        api = KubeApi(f"https://127.0.0.1:{ports.api_server}", admin)
        kubeconfig = certificates.write_kubeconfig("admin", api.server)
        try:
            start_api_server(processes, programs, certificates, ports, kubeconfig)
            server = ApiServer(api, kubeconfig, certificates)
            if with_crd:
                server.install_crd()
            yield server
        finally:
            api.close()
            processes.stop_all()
