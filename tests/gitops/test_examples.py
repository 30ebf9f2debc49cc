"""The examples for Argo CD and Flux, and the page that explains them, name what there is."""

import re
import shlex

import yaml
from tests.gitops.written import GITOPS

from annotationrun_api.labels import GROUP, REQUESTED_AT_ANNOTATION
from annotationrun_api.manifest import load_manifest
from annotationrun_api.reasons import Reason
from annotationrun_api.reference import walk_all_fields
from annotationrun_api.spec import KIND, AnnotationRun
from annotationrun_api.spec_fields import type_at
from annotationrun_api.status import RunStatus

ROOT = GITOPS.parents[1]
PAGE = (GITOPS / "README.md").read_text(encoding="utf-8")


def test_the_field_that_argo_cd_leaves_alone_is_that_which_its_actions_set():
    application = yaml.safe_load((GITOPS / "argocd/application.yaml").read_text(encoding="utf-8"))
    (ignored,) = application["spec"]["ignoreDifferences"]
    assert (ignored["group"], ignored["kind"]) == (GROUP, KIND)
    assert ignored["jsonPointers"] == ["/spec/suspend"]
    assert type_at(AnnotationRun, ["spec", "suspend"]) is not None
    # Without it the field would be set back whenever something else in Git changes.
    assert "RespectIgnoreDifferences=true" in application["spec"]["syncPolicy"]["syncOptions"]


def test_the_sample_follows_its_source():
    spec = load_manifest(ROOT / "crds/samples/relabel-in-git.yaml").spec
    assert (spec.source.follow.mode, spec.source.repo_id) == ("Poll", spec.output.repo_id)


def test_every_link_of_the_page_leads_somewhere():
    links = re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", PAGE.replace("\n", " "))
    assert len(links) > 5
    for link in links:
        assert (GITOPS / link).exists(), link


def test_every_file_that_a_command_names_is_there():
    lines = "".join(re.findall(r"^```shell\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)).splitlines()
    words = [word for line in lines for word in shlex.split(line) if word.startswith("crds/")]
    assert len(words) == 2
    for word in words:
        assert (ROOT / word).is_file(), word


def test_every_field_of_the_status_that_is_named_exists():
    fields = {path for path, _ in walk_all_fields(RunStatus, "status")}
    named = set(re.findall(r"`(status\.[A-Za-z.]+)`|\{\.(status\.[A-Za-z.]+)\}", PAGE))
    assert len(named) >= 3
    assert {"".join(one) for one in named} <= fields | {"status.published"}


def test_the_words_of_the_page_are_those_of_the_code():
    assert f"`{REQUESTED_AT_ANNOTATION}`" in PAGE
    assert f"`{Reason.SOURCE_POLL_FAILED}`" in PAGE
