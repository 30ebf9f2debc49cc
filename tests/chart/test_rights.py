"""What the chart lets the operator and people do, and where."""

import re
from pathlib import Path

import pytest
import yaml
from tests.support.helm import CHART, NAMESPACE, of_kind, render, the

RIGHTS = yaml.safe_load(Path(__file__).with_name("operator_rights.yaml").read_text(encoding="utf-8"))
NAMESPACES = ["team-a", "team-b"]
NAMESPACED = {"watchNamespaces": NAMESPACES}
EVERYTHING_OF_RUNS = {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}


def granted(role):
    """Verbs by resource, as in operator_rights.yaml."""
    found = {}
    for rule in role["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                name, _, subresource = resource.partition("/")
                key = ".".join(filter(None, (name, group))) + (f"/{subresource}" if subresource else "")
                assert key not in found
                found[key] = rule["verbs"]
    return found


def test_in_the_whole_cluster_the_operator_may_do_what_the_file_says():
    manifests = render()
    assert of_kind(manifests, "Role", "RoleBinding") == []
    binding = the("ClusterRoleBinding", manifests)
    (role,) = [
        role
        for role in of_kind(manifests, "ClusterRole")
        if role["metadata"]["name"] == binding["roleRef"]["name"]
    ]
    assert granted(role) == RIGHTS


def test_with_namespaces_the_operator_may_do_the_same_in_each_of_them():
    roles = of_kind(render(NAMESPACED), "Role")
    assert [role["metadata"]["namespace"] for role in roles] == NAMESPACES
    for role in roles:
        assert granted(role) == RIGHTS


def test_with_namespaces_nobody_gets_a_right_in_the_whole_cluster():
    manifests = render(NAMESPACED)
    assert of_kind(manifests, "ClusterRoleBinding") == []
    bindings = of_kind(manifests, "RoleBinding")
    assert [binding["metadata"]["namespace"] for binding in bindings] == NAMESPACES
    assert {binding["roleRef"]["kind"] for binding in bindings} == {"Role"}


def test_who_has_no_right_in_the_cluster_can_install():
    manifests = render({**NAMESPACED, "crds": {"enabled": False}, "rbac": {"userRoles": False}})
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {NAMESPACE, *NAMESPACES}


@pytest.mark.parametrize("values", [{}, NAMESPACED], ids=["in the cluster", "in namespaces"])
@pytest.mark.parametrize(
    "account",
    [
        pytest.param({}, id="an account by the release's name"),
        pytest.param({"name": "runs"}, id="an account by a name of its own"),
        pytest.param({"create": False, "name": "runs"}, id="an account that is there"),
    ],
)
def test_the_rights_go_to_the_account_that_the_operator_runs_as(values, account):
    manifests = render({**values, "serviceAccount": account})
    name = the("Deployment", manifests)["spec"]["template"]["spec"]["serviceAccountName"]
    assert name == account.get("name", "labels-annotationrun")
    made = [found["metadata"]["name"] for found in of_kind(manifests, "ServiceAccount")]
    assert made == ([name] if account.get("create", True) else [])
    bindings = of_kind(manifests, "RoleBinding", "ClusterRoleBinding")
    assert bindings
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]


def test_only_the_operators_pod_gets_a_token():
    manifests = render()
    assert the("ServiceAccount", manifests)["automountServiceAccountToken"] is False
    assert the("Deployment", manifests)["spec"]["template"]["spec"]["automountServiceAccountToken"] is True


def test_no_rights_are_granted_where_the_user_grants_them():
    manifests = render({"rbac": {"create": False, "userRoles": False}})
    assert of_kind(manifests, "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding") == []


@pytest.mark.parametrize(
    ("name", "verbs", "into"),
    [
        pytest.param("viewer", {"get", "list", "watch"}, {"view", "edit", "admin"}, id="viewers"),
        pytest.param("editor", EVERYTHING_OF_RUNS, {"edit", "admin"}, id="editors"),
    ],
)
def test_who_may_see_or_edit_a_namespace_may_see_or_edit_its_runs(name, verbs, into):
    roles = {role["metadata"]["name"]: role for role in of_kind(render(), "ClusterRole")}
    role = roles[f"labels-annotationrun-{name}"]
    found = granted(role)
    assert set(found.pop("annotationruns.annotationrun.dev")) == verbs
    assert found == {"annotationruns.annotationrun.dev/status": ["get"]}
    labels = role["metadata"]["labels"]
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    assert {key.removeprefix(prefix) for key in labels if key.startswith(prefix)} == into


def test_the_readme_names_these_rights():
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Rights")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z/]+) \| ([a-z, ]+?)(?: \(.*\))? \|$", section, re.MULTILINE)
    short = {re.sub(r"\.[a-z.]+", "", resource): verbs for resource, verbs in RIGHTS.items()}
    assert {resource: verbs.split(", ") for resource, verbs in rows if resource != "of"} == short
