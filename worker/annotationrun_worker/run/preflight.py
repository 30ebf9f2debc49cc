"""What is looked at before the first question: nobody shall pay for answers that can't be published."""

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from annotationrun_api.spec import RunSpec
from annotationrun_worker.dataset.episodes import EpisodeSummary
from annotationrun_worker.errors import StorageError
from annotationrun_worker.merge.output_place import check_output, check_rewritable
from annotationrun_worker.merge.placement import probe_writable
from annotationrun_worker.merge.record import source_identity
from annotationrun_worker.rows import ModuleName
from annotationrun_worker.run.places import Places
from annotationrun_worker.staging.digests import Digest


def check_before_asking(spec: RunSpec, places: Places, selected: Iterable[EpisodeSummary]) -> Digest:
    """See that output and staging can be written, and that the data files can take new rows.

    Returns:
        The source's ``source_identity`` towards the output.

    Raises:
        OutputError: the output can't be there, holds something that must not be lost, or would have subtasks
            changed under interjections that stay.
        DatasetError: the source can't be read, or not be rewritten.
        StorageError: output or staging can't be written.
    """
    check_output(places.source, places.output, overwrite=spec.output.overwrite)
    if isinstance(places.staging, Path):  # of an object store the plan shows it, which is put next
        _check_staging(places.staging)
    modules: list[ModuleName] = [
        name for name in get_args(ModuleName) if getattr(spec.modules, name) is not None
    ]
    check_rewritable(
        places.source, {int(episode.index): modules for episode in selected}, spec.output.existing_rows
    )
    return source_identity(places.source, places.output)


def _check_staging(staging: Path) -> None:
    try:
        probe_writable(staging)
    except OSError as error:
        raise StorageError(
            f"the staging folder {str(staging)!r} can't be written: {error}; check space and permissions, or "
            "choose another with --staging or spec.staging"
        ) from error
