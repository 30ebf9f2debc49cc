"""Which rows of an episode go, which come, which survive. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.errors import ConfigurationError, DatasetError, StagingError
from annotationrun_worker.merge.columns import (
    EpisodeLanguage,
    LanguageRow,
    json_text,
    sort_events,
    sort_persistent,
)
from annotationrun_worker.merge.existing import AnnotatedEpisode
from annotationrun_worker.rows import PERSISTENT_STYLES, ModuleName, StagedRow, module_of

ExistingRows = Literal["Replace", "Keep"]
"""``output.existingRows``: what happens to rows a module's results would replace."""

ModuleRows = Mapping[ModuleName, Sequence[StagedRow]]
"""The rows of one episode by module: modules that succeeded there; no rows is a result too."""


def modules_of(language: EpisodeLanguage) -> frozenset[ModuleName]:
    """The modules that own at least one of the rows."""
    owners = (module_of(row.style) for row in all_rows(language))
    return frozenset(owner for owner in owners if owner is not None)


def all_rows(language: EpisodeLanguage) -> Iterable[LanguageRow]:
    """Persistent rows, then events by frame."""
    yield from language.persistent
    for frame in sorted(language.events):
        yield from language.events[frame]


def replaced_modules(
    episode: AnnotatedEpisode,
    modules: Iterable[ModuleName],
    existing_rows: ExistingRows,
    ours: Collection[ModuleName] = (),
    settled: Collection[ModuleName] = (),
) -> frozenset[ModuleName]:
    """Which of ``modules`` replace the rows that they own in the episode, once they have results for it.

    The rows of ``ours`` came from results of earlier runs: these are replaced in any case. Those of
    ``settled`` are there already, made of the same subtasks as the others.

    Raises:
        ConfigurationError, DatasetError: see ``replace_rows``; both can be known before there are results.
    """
    present = modules_of(episode.language)
    replaced = frozenset(
        module for module in modules if existing_rows == "Replace" or module not in present or module in ours
    )
    renewed = replaced.union(settled)
    if "plan" in replaced and {"plan", "interjections"} <= present and "interjections" not in renewed:
        raise ConfigurationError(
            f"episode {episode.index} has interjections that belong to its present subtasks, which the plan "
            "module would replace; enable the module interjections too, or remove them before "
            f"('annotationrun drop'){'' if 'plan' in ours else ', or set spec.output.existingRows: Keep'}"
        )
    _check_roles(episode, replaced)
    return replaced


def drop_rows(episode: AnnotatedEpisode, modules: Collection[ModuleName]) -> EpisodeLanguage:
    """The rows of the episode without those that ``modules`` own.

    Raises:
        ConfigurationError: interjections would stay whose subtasks go.
        DatasetError: a surviving row has no role.
    """
    present = modules_of(episode.language)
    if "plan" in modules and "interjections" not in modules and {"plan", "interjections"} <= present:
        raise ConfigurationError(
            f"episode {episode.index} has interjections that belong to its subtasks, which the module plan "
            "owns; drop the module interjections too"
        )
    _check_roles(episode, modules)
    return _without(episode.language, modules)


def replace_rows(
    episode: AnnotatedEpisode,
    staged: ModuleRows,
    existing_rows: ExistingRows = "Replace",
    ours: Collection[ModuleName] = (),
    settled: Collection[ModuleName] = (),
) -> tuple[EpisodeLanguage, frozenset[ModuleName]]:
    """Put the staged rows in place of the ones their modules own; every other row survives.

    With ``Keep``, a module that owns rows in the episode already changes nothing there, but for those in
    ``ours``: their rows came from results of earlier runs. The rows of ``settled`` are there already.

    Returns:
        The episode's rows, and the modules whose rows were replaced.

    Raises:
        StagingError: a row of another module's style, or of a frame that the episode does not have.
        ConfigurationError: subtasks would change under interjections that stay.
        DatasetError: a surviving row has no role.
    """
    replaced = replaced_modules(episode, staged, existing_rows, ours, settled)
    rows = [(module, row) for module in sorted(replaced) for row in staged[module]]
    for module, row in rows:
        _check(module, row, episode)

    kept = _without(episode.language, replaced)
    persistent = list(kept.persistent)
    events = {frame: list(at_frame) for frame, at_frame in kept.events.items()}
    for _, row in rows:
        if row.style in PERSISTENT_STYLES:
            persistent.append(_language_row(row, episode.timestamps_seconds))
        else:
            events.setdefault(row.frame, []).append(_language_row(row, None))
    language = EpisodeLanguage(
        persistent=sort_persistent(persistent),
        events={frame: sort_events(events[frame]) for frame in sorted(events) if events[frame]},
    )
    return language, replaced


def _without(language: EpisodeLanguage, modules: Collection[ModuleName]) -> EpisodeLanguage:
    def survive(rows: Iterable[LanguageRow]) -> tuple[LanguageRow, ...]:
        return tuple(row for row in rows if module_of(row.style) not in modules)

    events = {frame: survive(rows) for frame, rows in language.events.items()}
    return EpisodeLanguage(
        persistent=sort_persistent(survive(language.persistent)),
        events={frame: sort_events(events[frame]) for frame in sorted(events) if events[frame]},
    )


def _check_roles(episode: AnnotatedEpisode, gone: Collection[ModuleName]) -> None:
    for row in all_rows(episode.language):
        if row.role is None and module_of(row.style) not in gone:
            raise DatasetError(
                f"episode {episode.index}: a row of style {row.style!r} has no role; repair it"
            )


def _check(module: ModuleName, row: StagedRow, episode: AnnotatedEpisode) -> None:
    if module_of(row.style) != module:
        raise StagingError(
            f"episode {episode.index}: a staged row of module {module} has style {row.style!r}, "
            f"which is {module_of(row.style) or 'no module'}'s"
        )
    try:
        row.to_json().encode()
    except ValueError as error:
        raise StagingError(
            f"episode {episode.index}, frame {row.frame}: a staged row of module {module} holds text that "
            f"UTF-8 or JSON can't: {error}"
        ) from error
    frame_count = len(episode.timestamps_seconds)
    if not 0 <= row.frame < frame_count:
        raise StagingError(
            f"episode {episode.index}: a staged row of module {module} names frame {row.frame}, "
            f"the episode has the frames 0 to {frame_count - 1}"
        )


def _language_row(row: StagedRow, timestamps_seconds: NDArray[np.float32] | None) -> LanguageRow:
    calls = row.tool_calls
    return LanguageRow(
        role=row.role,
        content=row.content,
        style=row.style,
        camera=row.camera,
        tool_calls=None if calls is None else tuple(json_text(dict(call)) for call in calls),
        timestamp_seconds=None if timestamps_seconds is None else float(timestamps_seconds[row.frame]),
    )
