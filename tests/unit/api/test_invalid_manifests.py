"""What is refused, by data that the API server is asked about too."""

from typing import Literal, get_origin

import annotated_types
import pytest
from tests.support.invalid_manifests import INVALID, LOCAL_ONLY, VALID, Invalid

from annotationrun_api.errors import ManifestError, ManifestProblem
from annotationrun_api.manifest import parse_manifest, parse_object
from annotationrun_api.spec import AnnotationRun
from annotationrun_api.spec_execution import PullSecret, Toleration
from annotationrun_api.spec_fields import child_type, field_types, walk_fields
from annotationrun_api.spec_types import SpecModel


def _problems(invalid: Invalid) -> tuple[ManifestProblem, ...]:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(invalid.text(), "m.yaml")
    return caught.value.problems


@pytest.fixture(scope="module")
def all_problems() -> list[ManifestProblem]:
    return [problem for invalid in INVALID for problem in _problems(invalid)]


def test_without_its_mistake_each_is_valid():
    assert parse_manifest(Invalid("", "", {}).text(), "m.yaml").metadata.name == "invalid"
    assert parse_object(VALID, "invalid").spec.model.id == "demo-vlm"


def test_they_have_names_of_their_own():
    assert len({invalid.name for invalid in INVALID}) == len(INVALID) > 200


@pytest.mark.parametrize("invalid", [pytest.param(invalid, id=invalid.name) for invalid in INVALID])
def test_a_mistake_is_refused_with_the_name_of_its_field(invalid):
    problems = _problems(invalid)

    assert any(problem.path.startswith(invalid.field) for problem in problems)
    with pytest.raises(ManifestError) as caught:
        parse_object(invalid.manifest(), "invalid")
    assert {problem.path for problem in caught.value.problems} == {problem.path for problem in problems}


@pytest.mark.parametrize("local", [pytest.param(local, id=local.name) for local in LOCAL_ONLY])
def test_what_one_machine_takes_the_loader_takes(local):
    assert parse_manifest(local.text(), "m.yaml").spec.staging.uri == local.values["spec.staging"]["uri"]
    assert parse_object(local.manifest(), "invalid").spec.staging.volume is None


def _models(model: type[SpecModel]) -> list[type[SpecModel]]:
    """A model and all in it, those of list items too."""
    found = [model]
    for field_type in field_types(model).values():
        item = child_type(field_type, 0) if get_origin(field_type.base) is tuple else field_type
        if item is not None and item.model is not None:
            found += _models(item.model)
    return found


MODELS = _models(AnnotationRun)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, id=f"{model.__name__}: {rule.expected}")
        for model in dict.fromkeys(MODELS)
        for rule in model.rules
    ],
)
def test_each_rule_has_its_mistake(rule, all_problems):
    words = {(problem.expected, problem.next_step) for problem in all_problems}
    assert (rule.expected, rule.next_step) in words


def _touched(invalid: Invalid) -> set[str]:
    """The fields by name that one mistake is about: the path without indices, and its last part."""
    return {invalid.field.split("[")[0], invalid.field.rsplit(".", 1)[-1]}


def _all_fields():
    yield from walk_fields(AnnotationRun, "")
    for item_model in (Toleration, PullSecret):  # items of lists, which no path goes into
        yield from walk_fields(item_model, "spec.workers.pod.item")


FIELDS = [(path.removeprefix("."), field_type) for path, field_type in _all_fields()]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path)
        for path, field_type in FIELDS
        if field_type.base in {int, float} or get_origin(field_type.base) is Literal
    ],
)
def test_each_number_and_each_choice_has_its_mistakes(path):
    name = path.rsplit(".", 1)[-1] if ".item." in path else path
    mistakes = [invalid for invalid in INVALID if name in _touched(invalid)]
    bounds = dict(FIELDS)[path].constraints

    assert mistakes
    if any(isinstance(item, annotated_types.Le) for item in bounds):
        assert len(mistakes) >= 2, "one below and one above"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path)
        for path, field_type in FIELDS
        if field_type.field is not None and field_type.field.is_required()
    ],
)
def test_each_required_field_is_missing_once(path, all_problems):
    missing = [problem.path for problem in all_problems if problem.got == "nothing, it is required"]
    if ".item." in path:
        assert any(known.endswith(f"].{path.rsplit('.', 1)[-1]}") for known in missing)
    else:
        # One claim and one Secret stand for all: they have one type.
        alike = {
            "claimName": "spec.source.volume.claimName",
            "name": "spec.source.tokenSecretRef.name",
            "key": "spec.source.tokenSecretRef.key",
        }
        last = path.rsplit(".", 1)[-1]
        assert path in missing or alike.get(last) in missing
