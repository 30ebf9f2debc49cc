"""What the chart installs may do what its file says, and no more."""

import yaml
from tests.cluster.installation import NAMESPACE, RELEASE
from tests.support.helm import CHART

RIGHTS = CHART.parents[1] / "tests" / "chart" / "operator_rights.yaml"
EVERYBODY = {
    "selfsubjectreviews.authentication.k8s.io",
    "selfsubjectaccessreviews.authorization.k8s.io",
    "selfsubjectrulesreviews.authorization.k8s.io",
}
"""What every user may ask about himself (ClusterRole system:basic-user)."""


def rights_of(installation, account):
    """Verbs by resource, as `kubectl auth can-i --list` tells them, without paths that are no resources."""
    told = installation.kubectl("auth", "can-i", "--list", f"--as=system:serviceaccount:{account}")
    found = {}
    for line in told.splitlines()[1:]:
        words = line.split()
        if line[0].isspace() or words[0].startswith("["):
            continue
        assert words[1:3] == ["[]", "[]"], line
        found[words[0]] = set(line[line.rindex("[") + 1 : line.rindex("]")].split())
    assert found.keys() >= EVERYBODY, told
    return {resource: verbs for resource, verbs in found.items() if resource not in EVERYBODY}


def test_the_operator_may_do_what_the_file_says(installation):
    expected = yaml.safe_load(RIGHTS.read_text(encoding="utf-8"))
    (account,) = {pod["spec"]["serviceAccountName"] for pod in installation.pods()}
    assert rights_of(installation, f"{NAMESPACE}:{account}") == {
        resource: set(verbs) for resource, verbs in expected.items()
    }


def test_the_account_of_the_runs_pods_may_do_nothing(installation, workspace):
    space = workspace("rights", claims=())
    assert rights_of(installation, f"{space.namespace}:default") == {}


def test_the_chart_can_be_installed_again(installation):
    before = installation.kubectl("get", "deployments", "--output=jsonpath={.items[0].metadata.uid}")
    installation.install()
    assert installation.kubectl("get", "deployments", "--output=jsonpath={.items[0].metadata.uid}") == before
    assert RELEASE in installation.deployment
