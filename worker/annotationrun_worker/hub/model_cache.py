"""A model's files, fetched from the Hub into a folder that model servers share: a cache of ``HF_HOME``.

The whole repository is fetched: a server that is offline takes a snapshot only if it is complete. What is
there is noted beside it, so that the next who asks for the same model and revision needs no network; a
branch is not looked up again.
"""

import errno
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from pydantic import BaseModel, ConfigDict, ValidationError

from annotationrun_worker.errors import HubAccessError, HubUnavailableError, StorageError
from annotationrun_worker.hub.client import hub_call, short

HUB_FOLDER: Final = "hub"
"""Below ``HF_HOME``."""
_NOTES: Final = "annotationrun"
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class WantedModel:
    """A model as the manifest names it."""

    model_id: str
    revision: str
    """Branch, tag or commit."""

    def __str__(self) -> str:
        return f"model {self.model_id!r} at {self.revision!r}"


class KeptModel(BaseModel):
    """What the folder holds of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    model: str
    revision: str
    commit: str
    """SHA-1 that the revision named when it was fetched."""
    files: dict[str, int]
    """Bytes by path in the repository."""

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())


def find_model(wanted: WantedModel, folder: Path) -> KeptModel | None:
    """The model as ``folder`` holds it, every file in its full size; ``None`` if it does not. No network.

    Raises:
        StorageError: the folder can't be read.
    """
    try:
        kept = KeptModel.model_validate_json(_note(wanted, folder).read_bytes())
        return kept if kept.files and not _missing(kept, folder) else None
    except (FileNotFoundError, ValidationError):
        return None
    except OSError as error:
        raise _storage_error(wanted, folder, error) from error


def fetch_model(wanted: WantedModel, folder: Path, token: str | None) -> KeptModel:
    """Fetch into ``folder`` what it lacks of the model; what is there of an earlier try counts.

    Args:
        wanted: the model.
        folder: ``HF_HOME`` of the servers.
        token: that may read it; ``None``: asked as anybody.

    Raises:
        HubAccessError: there is no such model or revision, or it is gated or private.
        HubUnavailableError: the Hub does not answer, or what came is not all.
        StorageError: there is no room, or the folder can't be written.
    """
    # False: huggingface_hub would else take any token that it finds on the machine.
    asked_as = token or False
    info = hub_call(
        f"reading {wanted}",
        lambda: HfApi(token=asked_as).model_info(
            wanted.model_id, revision=wanted.revision, files_metadata=True
        ),
    )
    if info.sha is None:
        raise HubAccessError(f"reading {wanted}: the Hub names no commit")
    kept = KeptModel(
        model=wanted.model_id,
        revision=wanted.revision,
        commit=info.sha,
        files={file.rfilename: file.size or 0 for file in info.siblings or ()},
    )
    if not kept.files:
        raise HubAccessError(f"reading {wanted}: the repository is empty; correct spec.model.id")
    try:
        _check_room(wanted, kept, folder)
        _download(wanted, kept, folder, asked_as)
        _write_note(wanted, kept, folder)
    except OSError as error:
        raise _storage_error(wanted, folder, error) from error
    return kept


def _download(wanted: WantedModel, kept: KeptModel, folder: Path, asked_as: str | bool) -> None:
    what = f"fetching {wanted}"
    for name in _missing(kept, folder):
        damaged = _path_in_cache(kept, name, folder)
        if damaged is not None:  # of another size: huggingface_hub takes what has the name for whole
            damaged.resolve().unlink()
            damaged.unlink(missing_ok=True)
    try:
        hub_call(
            what,
            lambda: snapshot_download(
                wanted.model_id, revision=kept.commit, cache_dir=folder / HUB_FOLDER, token=asked_as
            ),
        )
    except EntryNotFoundError as error:
        raise HubUnavailableError(
            f"{what}: a file that the Hub lists is not there: {short(error)}"
        ) from error
    except HfHubHTTPError as error:  # an OSError, as those of the disk are
        raise HubUnavailableError(f"{what}: {short(error)}") from error
    missing = _missing(kept, folder)
    if missing:
        raise HubUnavailableError(
            f"{what}: {len(missing)} of {len(kept.files)} files did not come whole, the first is "
            f"{missing[0]!r}; run again: what came is kept"
        )


def _missing(kept: KeptModel, folder: Path) -> list[str]:
    return [
        name
        for name, size in kept.files.items()
        if (found := _path_in_cache(kept, name, folder)) is None or found.stat().st_size != size
    ]


def _path_in_cache(kept: KeptModel, name: str, folder: Path) -> Path | None:
    found = try_to_load_from_cache(
        kept.model, name, cache_dir=folder / HUB_FOLDER, revision=kept.commit, repo_type="model"
    )
    return Path(found) if isinstance(found, str) else None


def _check_room(wanted: WantedModel, kept: KeptModel, folder: Path) -> None:
    needed = sum(kept.files[name] for name in _missing(kept, folder))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{wanted} has {kept.size_bytes:,} bytes, {needed:,} of them to be fetched, and {str(folder)!r} "
            f"has {free:,} free; take a larger claim for spec.model.serving.cache, or delete models that it "
            "holds"
        )


def _note(wanted: WantedModel, folder: Path) -> Path:
    name = hashlib.sha256(f"{wanted.model_id}\n{wanted.revision}".encode()).hexdigest()
    return folder / _NOTES / f"{name}.json"


def _write_note(wanted: WantedModel, kept: KeptModel, folder: Path) -> None:
    note = _note(wanted, folder)
    note.parent.mkdir(exist_ok=True)
    new = note.with_suffix(f".{os.getpid()}.new")
    new.write_text(kept.model_dump_json(), encoding="utf-8")
    new.replace(note)


def _storage_error(wanted: WantedModel, folder: Path, error: OSError) -> StorageError:
    remedy = (
        "take a larger claim for spec.model.serving.cache, or delete models that it holds"
        if error.errno in _NO_ROOM
        else "the claim of spec.model.serving.cache has to be writable for the pod's user"
    )
    return StorageError(f"can't keep {wanted} in {str(folder)!r}: {error}; {remedy}")
