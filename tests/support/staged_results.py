"""Staged results made from a dataset annotated by hand: what the modules would have staged for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.annotated_dataset import Row, data_paths, read_language

from annotationrun_worker.language.rows import ModuleName, StagedRow, module_of
from annotationrun_worker.output.merge import MergePlan
from annotationrun_worker.output.record import source_identity

Results = dict[str, list[StagedRow]]
"""Rows by result key: ``<episode>/<module>``, or more behind it for other rows of the two."""


def staged_results(annotated: Path) -> Results:
    """The rows of ``annotated`` as staged rows, by a search of each time among the frames."""
    results: Results = {}
    for path in data_paths(annotated):
        file = read_language(path)
        for episode in sorted(set(file.episodes)):
            places = file.frames_of(episode)
            times = [file.timestamps[place] for place in places]
            rows = [(times.index(row["timestamp"]), row) for row in file.persistent[places[0]]]
            rows += [(frame, row) for frame, place in enumerate(places) for row in file.events[place]]
            for frame, row in rows:
                results.setdefault(f"{episode}/{module_of(row['style'])}", []).append(_staged(frame, row))
    return results


def _staged(frame: int, row: Row) -> StagedRow:
    calls = row["tool_calls"]
    return StagedRow(
        frame=frame,
        role=row["role"],
        style=row["style"],
        content=row["content"],
        camera=row["camera"],
        tool_calls=None if calls is None else tuple(calls),
        request="0" * 64,
    )


def keys_by_episode(results: Mapping[str, Sequence[StagedRow]]) -> dict[int, dict[ModuleName, str]]:
    """The result keys as a merge plan names them."""
    by_episode: dict[int, dict[ModuleName, str]] = {}
    for key in results:
        episode, module, *_ = key.split("/")
        by_episode.setdefault(int(episode), {})[module] = key  # type: ignore[index]
    return by_episode


def merge_plan(source: Path, output: Path, results: Results, **changes: object) -> MergePlan:
    """A plan that merges ``results`` into ``source``."""
    values: dict[str, object] = {
        "source": source,
        "output": output,
        "results": keys_by_episode(results),
        "read_rows": results.__getitem__,
        "source_identity": source_identity(source, output),
        "has_same_videos": lambda *_: True,
    }
    return MergePlan(**(values | changes))  # type: ignore[arg-type]
