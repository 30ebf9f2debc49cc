"""Which episodes of a run lack a result, by the index of what is staged: no frame is read to see it.

Where the index knows less than there is (files were copied, so that their times are others; another store is
used), an episode counts as pending: who works on it finds what is there, and asks nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence

from annotationrun_worker.dataset.episodes import EpisodeSummary
from annotationrun_worker.dataset.records import EpisodeIndex
from annotationrun_worker.errors import DatasetError
from annotationrun_worker.rows import ResultName
from annotationrun_worker.run.episode import UNANSWERED_OF, EpisodeAnnotator, are_too_many
from annotationrun_worker.run.existing_rows import ExistingRows
from annotationrun_worker.run.preflight import SourceFindings
from annotationrun_worker.staging.digests import Digest, token_digest
from annotationrun_worker.staging.result_index import IndexedResult, ResultIndex

Entries = Mapping[Digest, Sequence[IndexedResult]]


async def missing_results(
    annotator: EpisodeAnnotator, episodes: Sequence[EpisodeSummary], findings: SourceFindings
) -> dict[EpisodeIndex, frozenset[ResultName]]:
    """Which results each of ``episodes`` lacks, or lacks answers of that are to be asked for again.

    Episodes that lack nothing are not in it, and none that can't be annotated: nothing can be done for these.

    Raises:
        StorageError: the store can't be read.
    """
    names: list[ResultName] = [module.name for module in annotator.modules.published]
    if annotator.modules.task_rule is not None:
        names.append(annotator.modules.task_rule.module.name)
    index = ResultIndex(annotator.basis.store)

    def missing() -> dict[EpisodeIndex, frozenset[ResultName]]:
        entries = {name: index.read_now(name) for name in names}
        found = {
            episode.index: _missing(annotator, episode, findings.quick_parts.get(episode.index), entries)
            for episode in episodes
            if episode.index not in findings.faults
        }
        return {episode: results for episode, results in found.items() if results}

    return await asyncio.to_thread(missing)


def _missing(
    annotator: EpisodeAnnotator,
    episode: EpisodeSummary,
    parts: Mapping[str, str] | None,
    entries: Mapping[ResultName, Entries],
) -> frozenset[ResultName]:
    if parts is None:
        return frozenset(entries)
    try:
        quick_keys = annotator.quick_keys(episode.task, parts, _existing_rows(annotator, episode))
    except DatasetError:  # whoever works on the episode tells of it
        return frozenset(entries)
    policy = annotator.basis.policy
    token = token_digest(policy.retry_token)
    staged = {name: entries[name].get(quick_key, ()) for name, quick_key in quick_keys.items()}
    best = {name: min(found, key=lambda entry: entry.unanswered) for name, found in staged.items() if found}
    lacking = {name for name, entry in best.items() if entry.unanswered}
    judged = [entry for name, entry in best.items() if name in UNANSWERED_OF]
    if not are_too_many(
        sum(entry.unanswered for entry in judged),
        sum(entry.asked for entry in judged),
        policy.max_holes_percent,
    ):  # what was asked under this token is not asked again
        lacking = {name for name in lacking if all(entry.retry_token != token for entry in staged[name])}
    return frozenset({name for name, found in staged.items() if not found} | lacking)


def _existing_rows(annotator: EpisodeAnnotator, episode: EpisodeSummary) -> ExistingRows:
    if not annotator.needs_existing_rows:
        return ExistingRows()
    return annotator.existing_rows(annotator.basis.episodes.read(episode.index))
