"""Which rows of an episode a merge replaces."""

from collections.abc import Sequence

import numpy as np
import pytest

from annotationrun_worker.errors import ConfigurationError, DatasetError
from annotationrun_worker.language.columns import EpisodeLanguage, LanguageRow
from annotationrun_worker.language.existing import (
    AnnotatedEpisode,
    ExistingRows,
    ModuleRows,
    all_rows,
    replace_rows,
)
from annotationrun_worker.language.rows import StagedRow

TIMES = np.asarray([0.0, 1 / 3, 2 / 3], np.float32)
PERSISTENT = ("subtask", "plan", "memory", "motion", "task_aug")
EVENTS = ("interjection", "vqa", "trace", None)


def episode(styles: Sequence[str | None]) -> AnnotatedEpisode:
    """An episode of three frames with one old row of each style."""
    old = {style: LanguageRow("user", "old", style, None, None, None) for style in styles}
    persistent = tuple(
        LanguageRow("user", "old", style, None, None, 0.0) for style in styles if style in PERSISTENT
    )
    events = tuple(old[style] for style in styles if style in EVENTS)
    return AnnotatedEpisode(
        index=4,
        timestamps_seconds=TIMES,
        frame_indices=np.arange(3),
        row_groups=(0,),
        language=EpisodeLanguage(persistent, {1: events} if events else {}),
        differs_at=None,
    )


def new(style: str | None, frame: int = 2) -> StagedRow:
    return StagedRow(frame, "assistant", style, "new")


def survivors(
    old: Sequence[str | None], staged: ModuleRows, existing_rows: ExistingRows = "Replace"
) -> tuple[set[str | None], set[str | None]]:
    """The styles of the old rows that stay, and of the new rows that came."""
    language, _ = replace_rows(episode(old), staged, existing_rows)
    by_content = {content: {row.style for row in all_rows(language) if row.content == content}
                  for content in ("old", "new")}  # fmt: skip
    return by_content["old"], by_content["new"]


ALL = (*PERSISTENT, *EVENTS)


@pytest.mark.parametrize(
    ("old", "staged", "stay"),
    [
        pytest.param(ALL, {}, set(ALL), id="no result: every row stays"),
        pytest.param(ALL, {"vqa": [new("vqa")]}, set(ALL) - {"vqa"}, id="vqa replaces vqa alone"),
        pytest.param(ALL, {"interjections": [new(None)]}, set(ALL) - {None, "interjection"},
                     id="interjections replace interjections and speech"),
        pytest.param(ALL, {"plan": [new("subtask")], "interjections": []}, {"motion", "trace", "vqa"},
                     id="plan and interjections together"),
        pytest.param(PERSISTENT, {"plan": [new("subtask")]}, {"motion"}, id="plan replaces its four styles"),
        pytest.param(ALL, {"vqa": []}, set(ALL) - {"vqa"}, id="a result without rows replaces too"),
        pytest.param((), {"vqa": [new("vqa")]}, set(), id="an episode without rows"),
    ],
)  # fmt: skip
def test_rows_of_the_modules_with_a_result_go_and_all_others_stay(
    old: Sequence[str | None], staged: ModuleRows, stay: set[str | None]
) -> None:
    expected_new = {row.style for rows in staged.values() for row in rows}
    assert survivors(old, staged) == (stay, expected_new)


def test_keep_leaves_modules_with_rows_alone_and_fills_the_others() -> None:
    staged: ModuleRows = {"vqa": [new("vqa")], "plan": [new("subtask")]}
    assert survivors(("vqa", "motion"), staged, "Keep") == ({"vqa", "motion"}, {"subtask"})


def test_staged_rows_get_the_exact_float32_time_of_their_frame() -> None:
    language, _ = replace_rows(episode(()), {"plan": [new("subtask", frame=1)]})
    assert language.persistent[0].timestamp_seconds == float(np.float32(1 / 3)) != 1 / 3


def test_staged_events_land_on_their_frame() -> None:
    language, replaced = replace_rows(episode(("vqa",)), {"vqa": [new("vqa", frame=2), new("vqa", frame=0)]})
    assert {frame: len(rows) for frame, rows in language.events.items()} == {0: 1, 2: 1}
    assert replaced == {"vqa"}


def test_new_subtasks_under_old_interjections_are_refused_with_the_setting_named() -> None:
    with pytest.raises(ConfigurationError, match=r"episode 4 .*output\.existingRows: Keep"):
        replace_rows(episode(("subtask", "interjection")), {"plan": [new("subtask")]})


def test_a_surviving_row_without_role_is_an_error() -> None:
    broken = episode(("motion",))
    row = LanguageRow(None, "x", "motion", None, None, 0.0)
    language = EpisodeLanguage((row,), {})
    with pytest.raises(DatasetError, match="no role"):
        replace_rows(
            AnnotatedEpisode(4, broken.timestamps_seconds, broken.frame_indices, (0,), language, None), {}
        )
