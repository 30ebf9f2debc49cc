"""A run's output on the Hub: what the merge changes is built here, and pushed as one commit."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from annotationrun_api.run_usage import RunUsage
from annotationrun_worker.dataset.layout import is_data_file
from annotationrun_worker.errors import OutputError, StorageError
from annotationrun_worker.hub.cache import FileCache, HubMirror, open_mirror
from annotationrun_worker.hub.publication import DesiredFile, HubSource, HubTarget, Provenance, Publication
from annotationrun_worker.hub.publish import publish
from annotationrun_worker.hub.repository import HubRepository
from annotationrun_worker.output.base import LanguageSummary, say_taken_away
from annotationrun_worker.output.merge import (
    BuiltDataset,
    MergePlan,
    MergeResult,
    PublishedOutput,
    build_merged,
    merge_result,
)
from annotationrun_worker.output.record import (
    RECORD_NAME,
    MergeRecord,
    SourceTree,
    read_record,
    unanswered_lines,
)
from annotationrun_worker.pipeline.config import HubPlace
from annotationrun_worker.pipeline.hub_source import open_tree
from annotationrun_worker.pipeline.same_videos import compared_videos
from annotationrun_worker.pipeline.wiring import LocalRun, OpenDataset, open_staging

VERSION_KEY = "codebase_version"


@contextmanager
def work_folder(run: LocalRun) -> Iterator[Path]:
    """An empty folder for what is built, on the disk of the cache; it goes with the context.

    Raises:
        StorageError: it can't be made.
    """
    try:
        run.hub.cache.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="merge-", dir=run.hub.cache)
    except OSError as error:
        raise StorageError(
            f"the cache {str(run.hub.cache)!r} can't be written: {error}; choose another with --cache"
        ) from error
    with made as folder:
        yield Path(folder)


def publish_merged(
    run: LocalRun, dataset: OpenDataset, plan: MergePlan, settings: str, cost: RunUsage
) -> MergeResult:
    """Build the merged dataset in ``plan.output``, an empty folder, and push it to the run's output.

    Args:
        run: the run.
        dataset: its source.
        plan: what is merged.
        settings: digest of the manifest's fields that results depend on.
        cost: what the run took.

    Raises:
        OutputError, DatasetError, StagingError, StorageError: see ``build_merged``.
        HubAccessError, HubUnavailableError, OutputMovedError: see ``publish``.
    """
    place = run.places.output
    assert isinstance(place, HubPlace), "folders are merged elsewhere"  # noqa: S101
    repository = HubRepository(place.repo_id, run.hub.output_token)
    if isinstance(dataset.files, HubMirror):
        dataset.files.hold([name for name in dataset.files.files if is_data_file(name)])
    tree = open_tree(dataset.files)
    with _published(run, dataset, place) as (head, there):
        built = build_merged(plan, tree, is_in_place=run.is_in_place, there=there)
    say_taken_away(built.written.summary)
    publication = Publication(
        target=HubTarget(place.revision, run.spec.output.private, run.spec.output.pull_request),
        merge_digest=built.written.merge_digest,
        files=_desired_files(tree, built, dataset),
        source=_hub_source(dataset),
        version_tag=str(dataset.info[VERSION_KEY]),
        provenance=_provenance(run, dataset, plan, cost, settings, built.written.summary),
        base_commit=head,
        is_in_place=run.is_in_place,
    )
    published = publish(repository, publication, open_staging(run))
    result = merge_result(built.written)
    return replace(result, unchanged=published.is_unchanged, published=published)


@dataclass(frozen=True, slots=True)
class PublishedMerge:
    """What an earlier merge published in the place of the output."""

    record: MergeRecord
    mirror: HubMirror
    """Of its commit."""


@contextmanager
def _published(
    run: LocalRun, dataset: OpenDataset, place: HubPlace
) -> Iterator[tuple[str | None, PublishedOutput | None]]:
    """Head of the output's branch, and what an earlier merge published there: see ``Publication``."""
    if run.is_in_place:
        yield None, None
        return
    with open_published(run, place) as (head, published):
        if published is None:
            yield head, None
            return
        mirror = published.mirror
        mirror.hold([name for name in mirror.files if is_data_file(name)])
        with compared_videos(run, dataset, mirror) as has_same_videos:
            yield head, PublishedOutput(published.record, mirror.root, has_same_videos)


@contextmanager
def open_published(run: LocalRun, place: HubPlace) -> Iterator[tuple[str, PublishedMerge | None]]:
    """Head of the output's branch (empty: there is none), and what an earlier merge published there.

    Raises:
        OutputError: its record is none of this version.
        DatasetError, HubAccessError, HubUnavailableError, StorageError: see ``open_mirror``.
    """
    repository = HubRepository(place.repo_id, run.hub.output_token)
    head = repository.head(place.revision)
    if head is None or RECORD_NAME not in repository.files(head):
        yield head or "", None
        return
    with open_mirror(repository, head, FileCache(run.hub.cache, run.hub.cache_bytes)) as mirror:
        record = _record_of(place, mirror)
        if record is None or record.source_identity is not None:
            yield head, None  # a dataset that was annotated in place: it is the source, or is refused
        else:
            yield head, PublishedMerge(record, mirror)


def _record_of(place: HubPlace, mirror: HubMirror) -> MergeRecord | None:
    try:
        return read_record(mirror.root)
    except OutputError as error:
        raise OutputError(
            f"{RECORD_NAME} of {place} is not the record of a merge by this version; name another output, or "
            "run with the version that made it"
        ) from error


def _hub_source(dataset: OpenDataset) -> HubSource | None:
    files = dataset.files
    return HubSource(files.repository, files.commit, files.files) if isinstance(files, HubMirror) else None


def _provenance(
    run: LocalRun,
    dataset: OpenDataset,
    plan: MergePlan,
    cost: RunUsage,
    settings: str,
    summary: LanguageSummary,
) -> Provenance:
    source = run.places.source
    return Provenance(
        source=source.repo_id if isinstance(source, HubPlace) else f"folder {source.name}",
        source_commit=dataset.files.commit,
        model=run.spec.model.id,
        model_revision=run.spec.model.revision,
        model_commit=run.model_revision.commit,
        config_digest=settings,
        run=run.name,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        episodes=summary.episodes,
        labelled_episodes={str(name): count for name, count in summary.labelled_episodes.items()},
        failed_episodes=tuple(plan.failed_episodes),
        unanswered=unanswered_lines(summary.unanswered),
        questions_unanswered=len(summary.unanswered),
        rows_by_style=summary.rows_by_style,
        taken_away=summary.taken_away,
        prompt_tokens=cost.prompt_tokens,
        answer_tokens=cost.completion_tokens,
    )


def _desired_files(tree: SourceTree, built: BuiltDataset, dataset: OpenDataset) -> dict[str, DesiredFile]:
    found = {name: _unchanged(name, path, dataset) for name, path in tree.files}
    if RECORD_NAME not in built.changed and (tree.root / RECORD_NAME).is_file():
        found[RECORD_NAME] = _unchanged(RECORD_NAME, tree.root / RECORD_NAME, dataset)
    for name in built.changed:
        found[name] = _local(built.folder / name)
    return found


def _unchanged(name: str, path: Path, dataset: OpenDataset) -> DesiredFile:
    if isinstance(dataset.files, HubMirror):
        file = dataset.files.files[name]
        return DesiredFile(file.size_bytes, file.sha256)
    return _local(path)


def _local(path: Path) -> DesiredFile:
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return DesiredFile(path.stat().st_size, sha256, path)
