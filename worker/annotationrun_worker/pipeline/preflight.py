"""What is looked at before the first question: nobody shall pay for answers that can't be published."""

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from annotationrun_worker.dataset.survey import faults_text, survey_source
from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.errors import (
    ConfigurationError,
    DatasetError,
    FrameDecodeError,
    StorageError,
    is_no_place,
)
from annotationrun_worker.language.columns import LANGUAGE_COLUMNS, REPLACED_COLUMNS
from annotationrun_worker.output.merge import METADATA_EDITS
from annotationrun_worker.output.place import check_output
from annotationrun_worker.output.placement import nearest_folder, probe_writable
from annotationrun_worker.output.record import LARGE_FOLDERS, source_files, speaks_of_other_rows
from annotationrun_worker.pipeline.annotate import allowed_failures
from annotationrun_worker.pipeline.config import HubPlace
from annotationrun_worker.pipeline.estimate import cameras_looked_at
from annotationrun_worker.pipeline.hub_source import check_room_for_merge
from annotationrun_worker.pipeline.wiring import LocalRun, OpenDataset
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.plans import StagedSurvey, read_survey, stage_survey
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.video.backends import make_decoder
from annotationrun_worker.video.decoder import EpisodeVideo


def check_places(run: LocalRun, dataset: OpenDataset) -> None:
    """See that output and staging can be written, and that a new output finds room.

    Raises:
        OutputError: the output can't be there, or holds something that must not be lost.
        ConfigurationError: staging can't be there, or the cache may hold less than the merge needs.
        StorageError: output or staging can't be written, or the disk is too small.
        DatasetError: the source can't be read.
    """
    spec, places = run.spec, run.places
    check_room_for_merge(dataset.files, places.output)
    if isinstance(places.output, Path):
        check_output(dataset.files.root, places.output, overwrite=spec.output.overwrite)
        is_new = not places.output.exists() or not any(places.output.iterdir())
        if is_new and not dataset.files.commit:  # one that is there may stay as it is
            _check_room(dataset.files.root, places.output)
    if isinstance(places.staging, Path):  # of an object store the plan shows it, which is put next
        _check_staging(places.staging)


def check_rights_to_publish(run: LocalRun) -> None:
    """See that the token may push an output on the Hub, as far as the Hub tells; nothing is written there.

    Raises:
        HubAccessError: it may not.
    """
    place, output = run.places.output, run.spec.output
    if not isinstance(place, HubPlace) or not run.hub.publishes:
        return
    from annotationrun_worker.hub.publication import HubTarget  # slow to import; other runs need no Hub
    from annotationrun_worker.hub.repository import HubRepository
    from annotationrun_worker.hub.rights import check_rights

    target = HubTarget(place.revision, output.private, output.pull_request)
    check_rights(HubRepository(place.repo_id, run.hub.output_token), target)


@dataclass(frozen=True, slots=True)
class SourceFindings:
    """What is doubtful of a source, and goes on all the same."""

    warnings: Sequence[str] = ()
    tasks: Mapping[int, str] = field(default_factory=dict)
    """The tasks of episodes whose text in ``meta/episodes`` is another one."""
    faults: Mapping[int, str] = field(default_factory=dict)
    """Why episodes can't be annotated."""
    quick_parts: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """What the quick fingerprints of the other episodes are made of."""


_MADE_ANEW: Final = frozenset({*REPLACED_COLUMNS, *LANGUAGE_COLUMNS})

NO_FINDINGS: Final = SourceFindings()


async def check_source(
    run: LocalRun, dataset: OpenDataset, store: StagingStore, identity: Digest
) -> SourceFindings:
    """See that the chosen episodes can be annotated, as far as it shows without decoding.

    What was found of a source on the Hub is staged under its ``identity``, which our own commits leave as it
    is: another plan for the same source fetches no data file again.

    Raises:
        DatasetError: see ``survey_source``; or more episodes can't be annotated than may fail.
        NoCamerasError, UnknownCameraError: there is nothing to look at.
        HubAccessError, HubUnavailableError, StorageError: a file can't be fetched.
    """
    cameras = cameras_looked_at(run.spec, dataset.features)
    chosen = [int(episode.index) for episode in dataset.chosen]
    key = digest_json({"source": identity, "cameras": sorted(cameras), "episodes": chosen})
    survey = await read_survey(store, key) if dataset.files.commit else None
    if survey is None:
        found = survey_source(
            dataset.files, dataset.info, dataset.episodes, dataset.chosen, cameras, _MADE_ANEW
        )
        faults, tasks = (
            {int(index): text for index, text in it.items()} for it in (found.faults, found.tasks)
        )
        parts = {int(index): it for index, it in found.quick_parts.items()}
        survey = StagedSurvey(faults, tasks, found.warnings, parts)
        if dataset.files.commit:
            await stage_survey(store, key, survey)
    allowed = allowed_failures(run.spec.failure_policy.max_failed_episodes, len(chosen))
    if len(survey.faults) > allowed:
        raise DatasetError(faults_text(survey.faults, len(chosen), allowed))
    if not dataset.files.commit:  # of a video on the Hub it shows when it is fetched
        _check_sizes(run, dataset, cameras, survey.faults.keys())
    _check_metadata(dataset.files.root)
    failing = [f"can't be annotated, and counts as failed: {fault}" for fault in survey.faults.values()]
    left_out = [
        f"{name} speaks of the language rows that the source has, and is not copied to the output"
        for name in _metadata_names(dataset.files.root)
        if speaks_of_other_rows(name)
    ]
    return SourceFindings(
        [*survey.warnings, *failing, *left_out], survey.tasks, survey.faults, survey.quick_parts
    )


def _metadata_names(root: Path) -> Iterator[str]:
    for path in sorted((root / "meta").glob("**/*")):
        if path.is_file():
            yield path.relative_to(root).as_posix()


def _check_metadata(root: Path) -> None:
    """See that the merge will be able to edit ``meta/``.

    Raises:
        DatasetError: a file is not what it has to be, or can't be read.
    """
    for name, edit in METADATA_EDITS.items():
        path = root / name
        try:
            edit(path.read_bytes())
        except FileNotFoundError:
            continue  # stats are not needed, and without info.json nothing gets here
        except OSError as error:
            raise DatasetError(f"{path} can't be read: {error}; check permissions") from error


def _check_sizes(
    run: LocalRun, dataset: OpenDataset, cameras: Sequence[CameraKey], broken: Collection[int]
) -> None:
    """See that the videos are of the sizes that ``info.json`` says: one file of each camera.

    Raises:
        DatasetError: one is not.
    """
    with closing(make_decoder(run.spec.frames.backend)) as decoder:
        for camera in cameras:
            told = dataset.features.camera_sizes[camera]
            episode = next((e for e in dataset.chosen if camera in e.videos and e.index not in broken), None)
            if episode is None:
                continue  # its pictures are in the rows
            span = episode.videos[camera]
            with suppress(FrameDecodeError):  # which the run tells of with the frames that are wanted
                size = decoder.frame_size(EpisodeVideo(episode.index, camera, span, episode.length))
                if size != told:
                    raise DatasetError(
                        f"camera {camera!r}: the frames of {str(span.path)!r} are {size[0]} x {size[1]} "
                        f"pixels, but meta/info.json says {told[0]} x {told[1]} (its shape); correct "
                        "meta/info.json, or the video"
                    )


def _check_room(source: Path, output: Path) -> None:
    """See that the disk holds a new output: what the merge writes anew, and what it can't link.

    Raises:
        StorageError: it does not, as far as the file system tells.
        DatasetError: the source can't be read.
    """
    disk = nearest_folder(output)
    try:
        device, usage = disk.stat().st_dev, shutil.disk_usage(disk)
    except OSError as error:
        raise StorageError(f"the disk of the output {str(output)!r} can't be asked: {error}") from error
    try:
        files = [(name, path.stat()) for name, path in source_files(source)]
    except OSError as error:
        raise DatasetError(f"can't read the source: {error}; check permissions") from error
    needed_bytes = sum(
        status.st_size
        for name, status in files
        if status.st_dev != device or name.split("/", 1)[0] not in LARGE_FOLDERS
    )
    if usage.total and needed_bytes > usage.free:  # some file systems tell nothing
        raise StorageError(
            f"the output {str(output)!r} takes about {needed_bytes:,} bytes, and {str(disk)!r} has "
            f"{usage.free:,} free; make room, or choose another with spec.output"
        )


def _check_staging(staging: Path) -> None:
    try:
        probe_writable(staging)
    except OSError as error:
        if is_no_place(error):
            raise ConfigurationError(
                f"the staging folder {str(staging)!r} can't be created there: {error}; choose another with "
                "--staging or spec.staging, or move what is in the way"
            ) from error
        raise StorageError(
            f"the staging folder {str(staging)!r} can't be written: {error}; check space and permissions, or "
            "choose another with --staging or spec.staging"
        ) from error
