import json
from typing import Literal, get_origin

import pytest
import yaml
from pydantic import ValidationError
from tests.support.manifests import CANONICAL

from annotationrun_api.manifest import load_manifest
from annotationrun_api.spec import AnnotationRun, RunSpec
from annotationrun_api.spec_fields import FieldType, describe_type, field_types, walk_fields
from annotationrun_api.spec_modules import InterjectionsModule, PlanModule, TaskAxes, VqaModule
from annotationrun_api.spec_source import SourceSpec, parse_episodes
from annotationrun_api.spec_types import SpecModel

# Fields of the canonical manifest that have no default, or an example in its place.
_EXAMPLES = {
    "spec.source.repoID": "lerobot/so101_pick",
    "spec.output.repoID": "me/so101_annotated",
    "spec.model.id": "Qwen/Qwen3.6-27B",
}
_MODULES = {"plan": PlanModule, "interjections": InterjectionsModule, "vqa": VqaModule}


def test_the_canonical_manifest_is_valid():
    run = load_manifest(CANONICAL)

    assert run.metadata.name == "so101-relabel"
    assert run.spec.source.follow.mode == "Never"
    assert run.spec.modules.plan == PlanModule()
    assert run.spec.modules.interjections == InterjectionsModule()
    assert run.spec.modules.vqa == VqaModule()


def _written_and_default() -> list[tuple[str, object, object]]:
    """Path, value in the canonical manifest, default of the model: of every field that both name."""
    written = yaml.safe_load(CANONICAL.read_text(encoding="utf-8"))["spec"]
    found: list[tuple[str, object, object]] = []

    def compare(values: dict[str, object], model: type[SpecModel], path: str) -> None:
        types = field_types(model)
        assert list(values) == list(types), f"{path} names other fields, or in another order, than its model"
        for name, value in values.items():
            field_type = types[name]
            if isinstance(value, dict) and value and field_type.model is not None:
                compare(value, field_type.model, f"{path}.{name}")
            else:
                found.append((f"{path}.{name}", value, _default(field_type)))

    compare(written, RunSpec, "spec")
    return found


def _default(field_type: FieldType) -> object:
    if field_type.field.is_required():
        return None
    default = field_type.field.get_default(call_default_factory=True, validated_data={})
    return json.loads(json.dumps(_plain(default)))


def _plain(default: object) -> object:
    if isinstance(default, SpecModel):
        return default.model_dump(by_alias=True, mode="json", exclude_defaults=True)
    return default


@pytest.mark.parametrize(
    ("path", "written", "default"), [pytest.param(*row, id=row[0]) for row in _written_and_default()]
)
def test_the_canonical_manifest_shows_the_models_default(path, written, default):
    if path in _EXAMPLES:
        assert written == _EXAMPLES[path]
        assert default is None
    else:
        assert written == default
        assert type(written) is type(default) or {type(written), type(default)} == {int, float}


def test_the_canonical_manifest_shows_every_field_of_the_modules():
    # Counted by hand in the manifest, so that the comparison above can't be empty unnoticed.
    assert len(_written_and_default()) == 93


@pytest.mark.parametrize(
    ("path", "field_type"), [pytest.param(*row, id=row[0]) for row in walk_fields(AnnotationRun, "")]
)
def test_a_description_begins_with_the_yaml_name_and_says_the_default(path, field_type):
    description = field_type.field.description
    default = field_type.field.get_default(call_default_factory=True, validated_data={})

    assert description.startswith(f"{path.rsplit('.', 1)[-1]}: ")
    assert len(description) < 400
    if field_type.field.is_required():
        assert description.endswith("Required.")
    elif isinstance(default, SpecModel | dict | tuple):
        assert "Default {" in description or "Default [" in description
    else:
        shown = default if isinstance(default, str) and default else json.dumps(default)
        assert f"Default {shown}" in description


@pytest.mark.parametrize(
    ("path", "field_type"), [pytest.param(*row, id=row[0]) for row in walk_fields(RunSpec, "spec")]
)
def test_every_number_text_and_list_is_bounded(path, field_type):
    if field_type.base in {int, float}:
        assert " up to " in describe_type(field_type)
    elif field_type.base is str or "[" in str(field_type.base).replace("typing.Literal[", ""):
        assert any(hasattr(item, "max_length") for item in field_type.constraints), path
    else:
        is_choice = get_origin(field_type.base) is Literal
        assert is_choice or field_type.model is not None or field_type.base in {bool, int | str}, path


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        pytest.param("7", (range(7, 8),), id="one episode"),
        pytest.param("0-99,120", (range(100), range(120, 121)), id="both ends belong to a range"),
        pytest.param("120, 0-99", (range(100), range(120, 121)), id="ranges are put in order"),
        pytest.param("5,0-3,2-4", (range(6),), id="ranges that overlap or touch become one"),
        pytest.param("3-3", (range(3, 4),), id="a range of one"),
    ],
)
def test_episodes_are_parsed_to_disjoint_ascending_ranges(text, ranges):
    assert parse_episodes(text) == ranges


@pytest.mark.parametrize("text", ["", "a", "1,,2", "-3", "3-1", "1-2-3", "1.5", "٣", "99999999999"])
def test_a_selection_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"episode numbers and ranges"):
        parse_episodes(text)


def test_the_source_gives_its_episodes_as_ranges():
    assert SourceSpec(path="/data", episodes="0-1").episode_ranges == (range(2),)
    assert SourceSpec(path="/data").episode_ranges is None


def test_models_can_be_made_from_python_and_hold_their_rules():
    with pytest.raises(ValidationError, match="expected exactly one of repoID, path"):
        SourceSpec(path="/data", repo_id="lerobot/so101_pick")


def test_a_spec_can_not_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        PlanModule().max_steps = 3


def test_task_axes_default_to_the_documented_counts():
    assert list(TaskAxes().model_dump().values()) == [3, 3, 2, 2, 2]
