import pytest
from tests.support.manifests import local_run

from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.pipeline.config import Overrides, read_api_key, resolve_places
from annotationrun_worker.pipeline.wiring import LocalRun
from annotationrun_worker.vlm.server import NO_API_KEY

KEYLESS = local_run().spec
WITH_KEY = local_run("mode: External", "mode: External\n      apiKeySecretRef: {name: a, key: b}").spec
VARIABLE = "ANNOTATIONRUN_API_KEY"


@pytest.mark.parametrize("spec", [KEYLESS, WITH_KEY], ids=["the manifest names none", "it names one"])
@pytest.mark.parametrize(
    "value", ["hunter2", "hunter2\n", " hunter2 \r\n"], ids=["bare", "as files end", "with space"]
)
def test_the_key_is_that_of_the_environment(spec, value):
    assert read_api_key(spec, {VARIABLE: value}) == "hunter2"


@pytest.mark.parametrize(
    "environment", [{}, {VARIABLE: ""}, {VARIABLE: "\n"}], ids=["unset", "empty", "space"]
)
def test_without_a_key_none_is_sent_unless_the_manifest_names_one(environment):
    assert read_api_key(KEYLESS, environment) == NO_API_KEY
    with pytest.raises(ConfigurationError, match=rf"apiKeySecretRef names a key.*{VARIABLE}"):
        read_api_key(WITH_KEY, environment)


@pytest.mark.parametrize("value", ["hunter2\nX-Evil: 1", "hünter2", "hunter\x00two"])
def test_what_can_not_stand_in_a_header_is_refused_and_not_shown(value):
    with pytest.raises(ConfigurationError, match=VARIABLE) as failed:
        read_api_key(KEYLESS, {VARIABLE: value})
    assert "nter" not in str(failed.value)


def test_a_run_that_is_printed_does_not_show_its_key():
    run = LocalRun(KEYLESS, resolve_places(KEYLESS, Overrides()), api_key="hunter2")
    assert "hunter2" not in repr(run)
