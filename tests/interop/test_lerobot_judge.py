"""LeRobot accepts what we write, and rejects it once it is damaged."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.interop.damage import DAMAGES, Damage, drop_plan
from tests.support.annotated_dataset import copy_dataset

Judge = Callable[..., Mapping[str, Any]]
pytestmark = pytest.mark.timeout(2400)  # the first test makes the environment


def test_lerobot_accepts_every_annotated_dataset(judge: Judge, annotated_datasets: dict[str, Path]) -> None:
    report = judge(annotated_datasets)

    assert {name: verdict["errors"] for name, verdict in report.items()} == {
        name: [] for name in annotated_datasets
    }
    for name, verdict in report.items():
        assert verdict["rows"], f"the judge saw no language rows in {name!r}"
        rendered = {style for style, count in verdict["rendered"].items() if count}
        unrendered = set(verdict["rows"]) - {"motion", "trace"} - rendered
        assert not unrendered, f"rows of {name!r} that LeRobot never rendered: {unrendered}"


def test_interjections_without_plan_are_accepted_from_runs_that_emit_none(
    judge: Judge, hand_annotated: Path, tmp_path: Path
) -> None:
    dataset = copy_dataset(hand_annotated, tmp_path / "no_plan")
    drop_plan(dataset)

    verdict = judge({"no plan": dataset}, "--plan-off")["no plan"]

    assert verdict["errors"] == []
    assert verdict["rows"]["interjection"] > 0


@pytest.fixture(scope="module")
def verdicts_on_damage(
    judge: Judge, hand_annotated: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Any]:
    folder = tmp_path_factory.mktemp("damaged")
    datasets: dict[str, Path] = {}
    for number, damage in enumerate(DAMAGES):
        datasets[damage.name] = copy_dataset(hand_annotated, folder / f"{number:02d}")
        damage.apply(datasets[damage.name])
    return judge(datasets)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_a_damaged_dataset_is_rejected_for_its_damage(
    damage: Damage, verdicts_on_damage: Mapping[str, Any]
) -> None:
    errors = verdicts_on_damage[damage.name]["errors"]

    assert any(re.search(damage.reason, error, re.DOTALL) for error in errors), errors[:10]
