"""LeRobot accepts what we write, and rejects it once it is damaged."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.interop.damage import DAMAGES, Damage
from tests.support.annotated_dataset import DataFile, annotate_by_hand, copy_dataset, edit_language

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


def test_the_plan_message_is_exempt_only_for_runs_without_plan(
    judge: Judge, reference_dataset: Path, tmp_path: Path
) -> None:
    dataset = annotate_by_hand(reference_dataset, tmp_path / "no_plan")
    edit_language(dataset, _drop_plan)

    strict = judge({"no plan": dataset})["no plan"]["errors"]
    lenient = judge({"no plan": dataset}, "--plan-off")["no plan"]["errors"]

    assert len(strict) == 6  # one interjection in each of the six episodes
    assert all("no co-timestamped plan update" in error for error in strict)
    assert lenient == []


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


def _drop_plan(file: DataFile) -> None:
    file.persistent = [[row for row in rows if row["style"] != "plan"] for rows in file.persistent]
