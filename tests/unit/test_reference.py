"""The generated pages: they are what the models and reasons make, whole, and true of the code."""

import ast
import re
from functools import cache
from typing import Literal, get_args, get_origin

import pytest
import yaml
from tests.support.checkout import ROOT
from tests.support.manifests import CANONICAL
from tests.support.run_world import RunWorld

from annotationrun_api.conditions import ConditionType
from annotationrun_api.crd_schema import crd
from annotationrun_api.edits import EditClass, edit_class
from annotationrun_api.errors import UnsupportedError
from annotationrun_api.labels import Step
from annotationrun_api.manifest import load_manifest, parse_manifest
from annotationrun_api.markdown_table import table
from annotationrun_api.reasons import Reason
from annotationrun_api.reference import NOT_YET, reference, walk_all_fields
from annotationrun_api.runbook import METRICS, REASON_GROUPS, runbook
from annotationrun_api.spec import AnnotationRun, RunSpec
from annotationrun_api.spec_fields import FieldType, child_type, field_types, type_at
from annotationrun_api.spec_types import SpecModel, yaml_name
from annotationrun_api.status import RunStatus
from annotationrun_operator.observation import read_inputs
from annotationrun_worker.pipeline.config import LIMITED, check_supported

REFERENCE, RUNBOOK = ROOT / "crds" / "README.md", ROOT / "operator" / "RUNBOOK.md"
OPERATOR = sorted((ROOT / "operator" / "annotationrun_operator").rglob("*.py"))
SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]


def rows(text: str) -> dict[str, list[str]]:
    """The rows of all tables whose first cell is a code span, by that span; the first of several."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            row = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))
            found.setdefault(row[0].strip("`"), row)
    return found


def schema_paths(schema: dict, path: str) -> set[str]:
    """Paths of the properties in the CRD's schema, found without the models."""
    found = set()
    for name, inner in schema.get("properties", {}).items():
        found |= {f"{path}.{name}", *schema_paths(inner, f"{path}.{name}")}
        found |= schema_paths(inner.get("items", {}), f"{path}.{name}[]")
    return found


SHOWN = rows(reference())


@pytest.mark.parametrize(
    ("path", "text"), [(REFERENCE, reference()), (RUNBOOK, runbook())], ids=["reference", "runbook"]
)
def test_the_file_is_what_the_code_makes(path, text):
    assert path.read_text(encoding="utf-8") == text, "run `make crds`"


@pytest.mark.parametrize("part", ["spec", "status"])
def test_every_field_of_the_schema_has_a_row(part):
    paths = schema_paths(SCHEMA[part], part)
    assert len(paths) > 60
    assert paths <= SHOWN.keys()


def test_every_row_says_type_default_and_meaning():
    shown = SHOWN
    assert shown["spec.workers.parallelism"] == [
        "`spec.workers.parallelism`",
        "a whole number from 1 up to 10000",
        "`1`",
        "worker pods, each with its model server.",
    ]
    assert shown["spec.model.id"][1:3] == [
        "the model's name, such as Qwen/Qwen3.6-27B, up to 512 characters",
        "required",
    ]
    for path, _ in walk_all_fields(RunSpec, "spec"):
        assert len(shown[path]) == 4
        assert all(shown[path]), path


@pytest.mark.parametrize("path", [path for path, _ in walk_all_fields(RunSpec, "spec")])
def test_the_default_is_the_one_that_the_api_server_fills_in(path):
    schema = {"properties": SCHEMA}
    for name in path.split("."):
        schema = schema["properties"][name.removesuffix("[]")]
        schema = schema["items"] if name.endswith("[]") else schema
    shown = SHOWN[path][2]
    if "[]" in path:
        assert "default" not in schema, "Argo CD compares lists whole: one that is filled in is drift"
    elif "properties" not in schema and "default" in schema:
        assert yaml.safe_load(shown.strip("`")) == schema["default"]
    else:
        assert shown in {"required", "`null`", "`[]`"} or shown.startswith("`{")


def test_every_rule_and_column_is_there_with_its_message():
    text = reference()

    def messages(schema: dict) -> list[str]:
        inner = [*schema.get("properties", {}).values(), schema.get("items", {})]
        own = [rule["message"] for rule in schema.get("x-kubernetes-validations", ())]
        return own + [message for part in inner if part for message in messages(part)]

    expected = messages(SCHEMA["spec"])
    assert len(expected) > 20
    assert all(message in text for message in expected)
    for column in crd()["spec"]["versions"][0]["additionalPrinterColumns"]:
        assert f"| {column['name']} | `{column['jsonPath']}` | {column['description']} |" in text


def test_a_pipe_does_not_break_a_row():
    assert table(["a", "b"], [["`x || y`", "two\nlines"]]).splitlines()[2] == r"| `x \|\| y` | two lines |"


def test_what_is_not_carried_out_yet_is_what_the_worker_refuses():
    """What a cluster adds to one machine: it holds a run, and brings a server."""
    assert {*NOT_YET, "spec.suspend", "spec.model.serving.mode"} == LIMITED
    assert {path for path, row in SHOWN.items() if "Not yet" in row[-1]} == set(NOT_YET)


@pytest.mark.parametrize(
    "sample", sorted((ROOT / "crds" / "samples").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_sample_is_shown_and_marked_if_it_is_refused(sample):
    (line,) = [line for line in reference().splitlines() if f"(samples/{sample.name})" in line]
    try:
        check_supported(load_manifest(sample), endpoint_given=True)
    except UnsupportedError:
        assert "Not yet" in line
    else:
        assert "Not yet" not in line


def other_value(field_type: FieldType, value: object) -> object:
    """A value of the same kind that is not this one."""
    if get_origin(field_type.base) is Literal:
        return next(choice for choice in get_args(field_type.base) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if get_origin(field_type.base) is tuple:
        item = child_type(field_type, 0)
        return (*value, *value[:1]) if value else (item.model.model_construct() if item.model else "other",)
    if get_origin(field_type.base) is dict:
        return {**value, "other": "other"}
    return 1 if field_type.base is int else f"{value}, and more"


def with_other(model: SpecModel, path: list[str]) -> SpecModel:
    """A copy in which one field has another value; a mapping that is null is made."""
    attribute = next(name for name in type(model).model_fields if yaml_name(name) == path[0])
    field_type, value = field_types(type(model))[path[0]], getattr(model, attribute)
    if len(path) == 1:
        changed = other_value(field_type, value)
    else:
        changed = with_other(value or field_type.model.model_validate(EXAMPLES[path[0]]), path[1:])
    return model.model_copy(update={attribute: changed})


EXAMPLES = {
    "volume": {"claimName": "data"},
    "cache": {"claimName": "data"},
    "tokenSecretRef": {"name": "token", "key": "key"},
    "apiKeySecretRef": {"name": "token", "key": "key"},
    "credentialsSecretRef": {"name": "store"},
    "integritySecretRef": {"name": "staging", "key": "key"},
    "taskAxes": {},
}
LEAVES = [
    path
    for path, field_type in walk_all_fields(RunSpec, "spec")
    if field_type.model is None and "[]" not in path
]


@cache
def canonical() -> AnnotationRun:
    return parse_manifest(CANONICAL.read_text(encoding="utf-8"), "manifest.yaml")


@pytest.mark.parametrize("path", LEAVES)
def test_an_edit_asks_for_what_the_reference_says(path):
    """By the operator's digests: of what is planned, of what is merged, of all but suspend and TTL."""
    edited = with_other(canonical(), path.split("."))
    before, after = read_inputs(canonical(), {}), read_inputs(edited, {})
    changed = [name for name in ("plan", "merge", "run") if getattr(before, name) != getattr(after, name)]
    assert (
        changed
        in {
            EditClass.PLAN: (["plan", "run"], ["plan", "merge", "run"]),
            EditClass.MERGE: (["merge", "run"],),
            EditClass.NEXT_JOB: (["run"],),
            EditClass.AT_ONCE: (["run"],) if "Deadline" in path else ([],),
        }[edit_class(path)]
    )


@pytest.mark.parametrize(
    ("field", "is_running", "reason"),
    [
        ("activeDeadlineSeconds", True, "ActiveDeadlineExceeded"),
        ("startDeadlineSeconds", False, "StartDeadlineExceeded"),
    ],
)
def test_an_edited_deadline_holds_at_once(field, is_running, reason):
    """Though the digests can't tell it from fields that hold from the next Job on."""
    world = RunWorld()
    world.go_to(Step.ANNOTATE)
    if is_running:
        world.run_pod(Step.ANNOTATE)
    world.settle()
    world.wait(100)
    world.settle()
    assert world.live == [Step.ANNOTATE]
    world.edit(**{field: 50})
    world.settle()
    assert world.condition(ConditionType.FAILED) == ("True", reason)
    assert edit_class(f"spec.{field}") is EditClass.AT_ONCE


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ({"workers": {"parallelism": 2}}, EditClass.NEXT_JOB),
        ({"output": {"path": "other", "volume": {"claimName": "data"}}}, EditClass.MERGE),
        ({"seed": 1}, EditClass.PLAN),
    ],
    ids=["workers", "output", "seed"],
)
def test_an_edit_while_workers_ask_stops_them_only_for_a_new_plan(spec, kind):
    world = RunWorld()
    world.go_to(Step.ANNOTATE)
    before = world.job(Step.ANNOTATE).name
    world.edit(**spec)
    world.settle()
    assert {edit_class(f"spec.{name}") for name in spec} == {kind}
    assert world.live == ([Step.PLAN] if kind is EditClass.PLAN else [Step.ANNOTATE])
    assert (before in world.jobs) == (kind is not EditClass.PLAN)


def test_every_reason_is_in_the_runbook_once_with_what_to_do():
    grouped = [reason for group in REASON_GROUPS for reason in group.reasons]
    assert sorted(grouped) == sorted(Reason)
    section = runbook().partition("\n## Reasons\n")[2]
    shown = rows(section)
    assert shown.keys() == {reason.value for reason in Reason}
    for reason in Reason:
        assert shown[reason.value][1:3] == [reason.happened, reason.remedy]


def test_every_condition_is_in_the_runbook_with_its_meaning():
    shown = rows(runbook())
    for kind in ConditionType:
        assert f"| `{kind}` | {kind.meaning} |" in runbook(), shown


def test_the_operator_names_every_reason():
    used = {
        node.attr
        for path in OPERATOR
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
    }
    assert set(Reason.__members__) <= used


def test_the_metrics_that_the_runbook_names_are_served():
    texts = {
        node.value
        for path in OPERATOR
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert {name.removesuffix("_total") for name in METRICS} <= texts
    named = {name for name in rows(runbook()) if name.startswith("annotationrun_")}
    assert named == METRICS.keys() != set()


@pytest.mark.parametrize("page", [REFERENCE, RUNBOOK], ids=lambda path: path.name)
def test_the_fields_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    models = {"spec": RunSpec, "status": RunStatus}
    named = set(re.findall(r"\b(spec|status)((?:\.[a-zA-Z]+(?:\[\])?)+)", text))
    assert len(named) > 10
    for part, path in named:
        names = [0 if name == "[]" else name for name in re.findall(r"[a-zA-Z]+|\[\]", path)]
        assert type_at(models[part], names) is not None, f"{part}{path}"


@pytest.mark.parametrize("page", [REFERENCE, RUNBOOK], ids=lambda path: path.name)
def test_what_a_page_links_to_exists(page):
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8"))
    assert links
    for target, anchor in links:
        found = (page.parent / target) if target else page
        assert found.is_file(), target
        titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in slugs, anchor
