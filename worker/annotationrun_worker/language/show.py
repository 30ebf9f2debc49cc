"""Counts and timelines of an annotated dataset, as plain values and as ``rich`` renderables."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from annotationrun_worker.dataset.episodes import EpisodeReader, EpisodeSummary, as_ranges, list_episodes
from annotationrun_worker.dataset.layout import data_files, has_journal
from annotationrun_worker.dataset.metadata import read_info
from annotationrun_worker.errors import DatasetError
from annotationrun_worker.language.columns import LANGUAGE_COLUMNS, EpisodeLanguage, LanguageRow
from annotationrun_worker.language.existing import AnnotatedEpisode, all_rows, read_annotated
from annotationrun_worker.plain_text import plain_line

SPEECH: Final = "speech"
"""How the rows without style are called."""

STYLE_ORDER: Final = (
    "subtask",
    "plan",
    "memory",
    "motion",
    "task_aug",
    "interjection",
    SPEECH,
    "vqa",
    "trace",
)
"""Order of the columns of a table; styles that are not named follow by name."""

RowCounts = Mapping[int, Mapping[str, int]]
"""Number of rows by episode and style; an episode without rows is there, empty."""


def row_counts(root: Path) -> RowCounts:
    """Count the language rows of the dataset at ``root``, persistent ones once an episode.

    Raises:
        DatasetError: no dataset of LeRobot v3.0, not annotated, there are no data files, or one can't be
            read.
    """
    _read_annotated_info(root)
    paths = data_files(root)
    if not paths:
        raise DatasetError(
            f"{root} has no data files; expected a LeRobot v3.0 dataset (meta/, data/, videos/)"
        )
    counts: dict[int, Mapping[str, int]] = {}
    for path in paths:
        for episode in read_annotated(path):
            counts[episode.index] = Counter(row.style or SPEECH for row in all_rows(episode.language))
    return dict(sorted(counts.items()))


def counts_table(counts: RowCounts) -> Table:
    """Rows by style (columns) and episode (lines), with totals."""
    found = {style for by_style in counts.values() for style in by_style}
    styles = [style for style in STYLE_ORDER if style in found] + sorted(found - set(STYLE_ORDER))
    table = Table(title="rows by style and episode", show_footer=True)
    table.add_column("episode", footer="all", justify="right")
    for style in [*styles, "total"]:
        total = sum(_count(by_style, style) for by_style in counts.values())
        table.add_column(Text(plain_line(style)), footer=str(total), justify="right", no_wrap=True)
    for index, by_style in counts.items():
        table.add_row(str(index), *(str(_count(by_style, style)) for style in [*styles, "total"]))
    return table


def vqa_coverage(root: Path) -> str:
    """How many question and answer pairs there are, and how many frames with a pair times cameras.

    Raises:
        DatasetError: see ``row_counts``.
    """
    answers: Counter[tuple[int, int]] = Counter()
    cameras: set[str | None] = set()
    for path in data_files(root):
        for episode in read_annotated(path):
            for frame, rows in episode.language.events.items():
                asked = [row.camera for row in rows if row.style == "vqa" and row.role == "assistant"]
                cameras.update(asked)
                answers.update({(episode.index, frame): len(asked)} if asked else {})
    return f"{answers.total()} vqa pairs; {len(answers)} anchored frames x {len(cameras)} cameras"


def _count(by_style: Mapping[str, int], style: str) -> int:
    return sum(by_style.values()) if style == "total" else by_style.get(style, 0)


def timeline(root: Path, episode: int) -> list[str]:
    """All language rows of one episode as text, a line each, in order of time; their words as they are.

    Raises:
        DatasetError: no such episode, the dataset is not annotated, or it can't be read.
    """
    info = _read_annotated_info(root)
    summary = _find_episode(list_episodes(root, info), root, episode)
    path = EpisodeReader(root, info).rows_of(summary).path
    found = next(read for read in read_annotated(path) if read.index == episode)
    times = found.timestamps_seconds
    head = (
        f"episode {episode}: {summary.task!r}, {len(times)} frames, {times[0]:.2f} s to {times[-1]:.2f} s, "
        f"{sum(1 for _ in all_rows(found.language))} rows"
    )
    return [head, *_lines(found)]


def _read_annotated_info(root: Path) -> Mapping[str, Any]:
    if has_journal(root):
        raise DatasetError(
            f"{root}: a merge in place is not complete, some files are old and some new; run the command "
            "that changed it again, which completes it"
        )
    info = read_info(root)
    missing = [name for name in LANGUAGE_COLUMNS if name not in info["features"]]
    if missing:
        raise DatasetError(
            f"{root} is not annotated: the language columns {missing} are not among the features of "
            "meta/info.json; make an annotated dataset of it with `annotationrun run`, and show that"
        )
    return info


def _find_episode(summaries: list[EpisodeSummary], root: Path, episode: int) -> EpisodeSummary:
    found = next((summary for summary in summaries if summary.index == episode), None)
    if found is None:
        existing = as_ranges([int(summary.index) for summary in summaries])
        raise DatasetError(f"{root} has no episode {episode}, it has {existing}; correct --episode")
    return found


def _lines(episode: AnnotatedEpisode) -> Iterator[str]:
    language, times = episode.language, episode.timestamps_seconds
    ends = _subtask_ends(language, float(times[-1]))
    entries = [(row.timestamp_seconds or 0.0, 0, row) for row in language.persistent]
    entries += [
        (float(times[frame]), 1, row) for frame, rows in language.events.items() for row in _asked_first(rows)
    ]
    # a subtask opens its time, what belongs to it follows
    entries.sort(key=lambda entry: (entry[0], entry[1], entry[2].style != "subtask"))
    for time, _, row in entries:
        label = row.style or SPEECH
        if row.style == "subtask":
            yield f"{time:9.2f} s  subtask       {row.content}  (until {ends[time]:.2f} s)"
        else:
            yield f"{time:9.2f} s    {label:<11} {_text(row)}"


def _subtask_ends(language: EpisodeLanguage, last_seconds: float) -> dict[float, float]:
    starts = sorted({row.timestamp_seconds or 0.0 for row in language.persistent if row.style == "subtask"})
    return dict(zip(starts, [*starts[1:], last_seconds], strict=True)) if starts else {}


def _asked_first(rows: Iterable[LanguageRow]) -> list[LanguageRow]:
    """The user's row before its answer; the columns hold them the other way around."""
    return sorted(rows, key=lambda row: (row.style or "", row.camera or "", row.role != "user"))


def _text(row: LanguageRow) -> str:
    if row.tool_calls is not None:
        return " ".join(_spoken(call) for call in row.tool_calls)
    text = (row.content or "").replace("\n", " / ")
    if row.camera is None:
        return text
    return f"{row.camera}  {'Q' if row.role == 'user' else 'A'}: {text}"


def _spoken(call: str) -> str:
    try:
        return repr(json.loads(call)["function"]["arguments"]["text"])
    except (ValueError, KeyError, TypeError):
        return call
