"""The CustomResourceDefinition: the file is what the models make, and what an API server takes."""

import copy
import json
import re

import pytest
import yaml
from tests.support.checkout import ROOT
from tests.support.invalid_manifests import VALID
from tests.support.manifests import CANONICAL

from annotationrun_api.crd_schema import crd, crd_yaml
from annotationrun_api.manifest import load_manifest, parse_manifest, parse_object
from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_fields import walk_fields

CRDS = ROOT / "crds"
VERSION = crd()["spec"]["versions"][0]
ROOT = VERSION["schema"]["openAPIV3Schema"]


def _schemas(schema, path):
    """A schema and all in it, by path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from _schemas(inner, f"{path}.{name}")
    for word, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if word in schema:
            yield from _schemas(schema[word], f"{path}{mark}")


SCHEMAS = [found for name in ("spec", "status") for found in _schemas(ROOT["properties"][name], name)]
RULES = [
    (f"{path}: {rule['rule']}", schema, rule)
    for path, schema in SCHEMAS
    for rule in schema.get("x-kubernetes-validations", [])
]


def test_the_file_is_what_the_models_make():
    written = (CRDS / "annotationruns.yaml").read_text(encoding="utf-8")
    assert written == crd_yaml(), "run `make crds`"


def test_the_text_says_what_was_meant():
    assert yaml.safe_load(crd_yaml()) == crd()


def test_it_is_small_enough_for_client_side_apply():
    assert len(crd_yaml().encode()) < 200 << 10


def test_every_field_of_the_spec_is_in_the_schema():
    in_schema = {path for path, _ in SCHEMAS if path.startswith("spec.")}
    assert {path for path, _ in walk_fields(RunSpec, "spec")} <= in_schema
    assert len(in_schema) > 130


@pytest.mark.parametrize(("path", "schema"), [pytest.param(*found, id=found[0]) for found in SCHEMAS])
def test_a_schema_is_structural_and_bounded(path, schema):
    assert not {"$ref", "anyOf", "oneOf", "allOf", "not", "nullable", "uniqueItems"} & schema.keys()
    assert ("type" in schema) != schema.get("x-kubernetes-int-or-string", False)
    kind = schema.get("type", "int-or-string")
    wanted = {
        "string": {"maxLength"},
        "array": {"maxItems", "items", "x-kubernetes-list-type"},
        "int-or-string": {"minimum", "maximum", "maxLength", "pattern"},
        "integer": {"minimum", "maximum", "format"},
        "number": {"minimum", "maximum"},
    }
    if "enum" in schema:
        assert kind == "string"
        assert not {"Off", "On", "No", "Yes", "True", "False"} & set(schema["enum"]) or path.startswith(
            "status"
        )
    else:
        assert wanted.get(kind, set()) <= schema.keys()
    if kind == "object" and "properties" not in schema:
        assert "maxProperties" in schema
        assert ("additionalProperties" in schema) != ("x-kubernetes-preserve-unknown-fields" in schema)
    if not path.endswith(("[]", "{}")):
        assert schema["description"].startswith(f"{path.rsplit('.', 1)[-1]}: ")


@pytest.mark.parametrize(
    "pattern", sorted({schema["pattern"] for _, schema in SCHEMAS if "pattern" in schema})
)
def test_a_pattern_is_one_that_re2_takes(pattern):
    re.compile(pattern)
    assert pattern.startswith("^")
    assert pattern.endswith("$")
    assert not re.search(r"\(\?|\\[1-9]|[*+?}]\+", pattern), "no lookaround, back reference, possessive"


@pytest.mark.parametrize(
    ("schema", "rule"), [pytest.param(schema, rule, id=name) for name, schema, rule in RULES]
)
def test_a_cel_rule_names_fields_that_are_there_and_says_what_is_expected(schema, rule):
    named = re.findall(r"\bself\.([a-z]\w*)(?!\w*\()", rule["rule"])
    assert set(named) <= schema.get("properties", {}).keys()
    assert rule["message"].startswith("expected ")
    assert len(rule["message"]) < 300
    assert "\n" not in rule["message"]
    if "properties" in schema:
        assert named
        assert rule["fieldPath"].removeprefix(".") in schema["properties"]


def test_each_rule_of_the_models_is_there():
    assert len([rule for _, _, rule in RULES if "fieldPath" in rule]) == 18


def test_staging_on_a_cluster_is_no_folder_of_a_pod():
    (rule,) = dict(SCHEMAS)["spec.staging.uri"]["x-kubernetes-validations"]
    assert rule["rule"] == "!self.startsWith('file:')"
    assert "spec.staging.volume" in rule["message"]


def _filled(schema, value):
    """A value with defaults as the API server fills them in: nulls go first, then parents before children."""
    if isinstance(value, list):
        return [_filled(schema["items"], item) for item in value]
    properties = schema.get("properties")
    if not isinstance(value, dict) or properties is None:
        return value
    given = {name: inner for name, inner in value.items() if inner is not None}
    defaults = {name: inner["default"] for name, inner in properties.items() if "default" in inner}
    return {
        name: _filled(properties[name], inner) for name, inner in (copy.deepcopy(defaults) | given).items()
    }


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(VALID, id="a short manifest"),
        pytest.param(yaml.safe_load(CANONICAL.read_text(encoding="utf-8")), id="every field, many null"),
    ],
)
def test_the_schemas_defaults_are_the_models(manifest):
    spec = _filled(ROOT["properties"]["spec"], manifest["spec"])

    given, filled = (parse_object(manifest | {"spec": of}, "m").spec for of in (manifest["spec"], spec))
    assert filled == given
    assert spec["model"]["serving"]["sharedMemory"] == "16Gi"
    assert spec["model"]["chatTemplateArgs"] == {"enable_thinking": False}
    assert "null" not in json.dumps(spec)


def test_a_run_that_no_operator_has_seen_is_not_taken_for_done():
    assert ROOT["properties"]["status"]["default"] == {"observedGeneration": -1}
    assert VERSION["subresources"] == {"status": {}}


def test_each_column_shows_a_field_that_is_there():
    paths = {path for path, _ in SCHEMAS}
    columns = {column["name"]: column["jsonPath"] for column in VERSION["additionalPrinterColumns"]}

    assert list(columns)[:6] == ["State", "Progress", "ETA", "Failed", "Queue", "Age"]
    for path in columns.values():
        plain = re.sub(r'\[\?\(@\.type=="Ready"\)\]', "[]", path).removeprefix(".")
        assert plain in paths or plain == "metadata.creationTimestamp"


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem) for path in sorted((CRDS / "samples").glob("*.yaml"))]
)
def test_a_sample_is_valid_and_can_run_in_a_cluster(path):
    run = load_manifest(path)

    assert run.metadata.name == path.stem
    assert run.spec.staging.uri or run.spec.staging.volume
    for place in (run.spec.source, run.spec.output):
        assert place.repo_id or place.volume


def test_the_samples_are_those_that_are_promised():
    assert {path.stem for path in (CRDS / "samples").glob("*.yaml")} == {
        "minimal",
        "hub-to-hub",
        "folder-on-a-volume",
        "external-endpoint",
        "kueue",
        "relabel-in-git",
        "spot-nodes",
    }


def test_an_object_of_the_cluster_is_read_without_what_the_server_added():
    served = {"creationTimestamp": "2030-01-01T00:00:00Z", "uid": "7", "managedFields": []}
    served_run = VALID | {"metadata": {"name": "invalid"} | served, "status": {"observedGeneration": -1}}

    assert parse_object(served_run, "invalid") == parse_manifest(json.dumps(VALID), "m.yaml")
