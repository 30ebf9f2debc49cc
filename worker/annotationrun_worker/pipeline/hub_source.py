"""A run's source, and the commit of its model.

A run's source: a folder, or a dataset on the Hub that is fetched as it is needed.

The model's revision as results know it: the commit that ``spec.model.revision`` names on the Hub.

A branch moves, and labels of two models must not pass for those of one. It is looked up where servers of ours
fetch the model from the Hub: what others serve, nobody knows here.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_model import ModelSpec
from annotationrun_api.spec_types import SecretKeyRef
from annotationrun_api.step_results import HUB_TOKEN_VARIABLE, MODEL_TOKEN_VARIABLE, SOURCE_TOKEN_VARIABLE
from annotationrun_worker.dataset.layout import DatasetFiles, FolderFiles, check_entries, is_data_file
from annotationrun_worker.errors import ConfigurationError, HubAccessError, HubUnavailableError
from annotationrun_worker.output.record import SourceTree, folder_tree
from annotationrun_worker.pipeline.config import HubPlace, Places
from annotationrun_worker.staging.digests import is_commit
from annotationrun_worker.staging.plans import read_model_commit, stage_model_commit
from annotationrun_worker.staging.store import StagingStore

if TYPE_CHECKING:
    from annotationrun_worker.hub.cache import HubMirror

DEFAULT_CACHE_BYTES: Final = 32 << 30


@dataclass(frozen=True, slots=True)
class HubAccess:
    """How the Hub is reached."""

    source_token: str | None = field(default=None, repr=False)
    output_token: str | None = field(default=None, repr=False)
    publishes: bool = False
    """Whether the output is pushed with ``output_token``: the plan step in a pod has another one."""
    cache: Path = Path()
    """Folder for files of the Hub, shared by all processes of this machine."""
    cache_bytes: int = DEFAULT_CACHE_BYTES


def default_cache() -> Path:
    """``annotationrun/hub`` in the user's cache folder.

    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "annotationrun" / "hub"


def hub_access(
    spec: RunSpec, environment: Mapping[str, str], cache: Path | None, *, publishes: bool
) -> HubAccess:
    """How the places of ``spec`` on the Hub are reached: tokens from the environment, or of the Hub's CLI.

    Raises:
        ConfigurationError: the manifest names a token, and there is none.
    """
    if spec.source.repo_id is None and spec.output.repo_id is None:
        return HubAccess()
    from annotationrun_worker.hub.client import (
        login_token,  # runs between folders need no Hub: slow to import
    )

    common = token_in(environment, HUB_TOKEN_VARIABLE) or login_token()
    source = token_in(environment, SOURCE_TOKEN_VARIABLE) or common
    _check_token("source", spec.source.token_secret_ref, source)
    if publishes:  # in a pod, the other steps don't have it
        _check_token("output", spec.output.token_secret_ref, common)
    return HubAccess(source, common, publishes, cache or default_cache(), spec.source.cache_bytes)


def token_in(environment: Mapping[str, str], variable: str) -> str:
    """The token in an environment variable; empty: there is none.

    Raises:
        ConfigurationError: what is there is no token.
    """
    token = environment.get(variable, "").strip()
    if not all("!" <= character <= "~" for character in token):
        # HTTP can't carry it, and its libraries would tell it in their errors.
        raise ConfigurationError(
            f"the environment variable {variable} holds no token: there are spaces, line ends or other "
            "characters in it that no token has; correct it"
        )
    return token


def _check_token(name: str, reference: SecretKeyRef | None, token: str | None) -> None:
    if reference is not None and not token:
        raise ConfigurationError(
            f"spec.{name}.tokenSecretRef names a token, and a Secret can't be read without a cluster; put "
            f"the token into the environment variable {HUB_TOKEN_VARIABLE}, or run 'hf auth login'"
        )


def pinned(places: Places, access: HubAccess) -> Places:
    """The same, with a source on the Hub named by the SHA of its commit: a branch moves, and a tag may.

    Raises:
        HubAccessError, HubUnavailableError: see ``HubRepository.resolve``.
    """
    if not isinstance(places.source, HubPlace):
        return places
    from annotationrun_worker.hub.repository import HubRepository

    repository = HubRepository(places.source.repo_id, access.source_token)
    return replace(places, source=replace(places.source, revision=repository.resolve(places.source.revision)))


@contextmanager
def open_source(place: Path | HubPlace, access: HubAccess) -> Iterator[DatasetFiles]:
    """The files of the source ``place``, which is pinned; of one on the Hub only the metadata is there.

    Raises:
        DatasetError, HubAccessError, HubUnavailableError, StorageError: see ``open_mirror``.
    """
    if not isinstance(place, HubPlace):
        check_entries(place)
        yield FolderFiles(place)
        return
    from annotationrun_worker.hub.cache import FileCache, open_mirror
    from annotationrun_worker.hub.repository import HubRepository

    repository = HubRepository(place.repo_id, access.source_token)
    with open_mirror(repository, place.revision, FileCache(access.cache, access.cache_bytes)) as mirror:
        yield mirror


def fetch_all(files: DatasetFiles) -> None:
    """Have every file of the source there, until it is closed.

    Raises:
        DatasetError, HubAccessError, HubUnavailableError, StorageError: see ``HubMirror.hold``.
    """
    mirror = _mirror_of(files)
    if mirror is not None:
        mirror.hold(_all_names(mirror))


def check_room_for_merge(files: DatasetFiles, output: Path | HubPlace) -> None:
    """See before any work whether the cache may hold what the merge needs at once.

    That is all of the source where it becomes a folder, and the data files where it is pushed.

    Raises:
        ConfigurationError: it may not.
    """
    mirror = _mirror_of(files)
    if mirror is not None:
        names = _all_names(mirror)
        is_pushed = isinstance(output, HubPlace)
        mirror.check_room([name for name in names if not is_pushed or is_data_file(name)])


def _all_names(mirror: "HubMirror") -> list[str]:
    return [name for name in mirror.files if not name.startswith(".")]


def open_tree(files: DatasetFiles) -> SourceTree:
    """What the source holds.

    Raises:
        DatasetError: a file is not there or can't be read.
        HubAccessError, HubUnavailableError, StorageError: it can't be fetched.
    """
    mirror = _mirror_of(files)
    if mirror is None:
        return folder_tree(files.root)
    from annotationrun_worker.output.hub_tree import hub_tree

    return hub_tree(mirror)


def _mirror_of(files: DatasetFiles) -> "HubMirror | None":
    if isinstance(files, FolderFiles):
        return None
    from annotationrun_worker.hub.cache import HubMirror

    assert isinstance(files, HubMirror), "there are two kinds"  # noqa: S101
    return files


PATIENCE_SECONDS: Final = 5.0
"""With a Hub that does not answer, where the run can go on without it."""


@dataclass(frozen=True, slots=True)
class ModelRevision:
    """What ``spec.model.revision`` stands for."""

    name: str
    """SHA-1 of the commit, as far as that is known; else the revision as the manifest has it."""
    is_looked_up: bool = False
    """The Hub has just said so."""
    warnings: tuple[str, ...] = ()

    @property
    def commit(self) -> str:
        """SHA-1 of the commit; empty: it is not known."""
        return self.name if is_commit(self.name) else ""


def find_model_revision(
    spec: RunSpec, store: StagingStore, environment: Mapping[str, str] = os.environ, *, is_required: bool
) -> ModelRevision:
    """Ask the Hub, once, which commit the model's revision names now.

    Where it does not tell, what the staging store notes of an earlier time stands in, else the revision as it
    is, with a warning; but where the commit ``is_required``, and the environment does not say that the Hub is
    not to be asked (HF_HUB_OFFLINE), that is an error.

    Raises:
        HubAccessError: there is no such model or revision, or it may not be read.
        HubUnavailableError: the Hub does not answer.
        ConfigurationError: an environment variable holds no token.
        StorageError: see ``read_model_commit``.
    """
    model = spec.model
    if not model.is_fetched or is_commit(model.revision):
        return ModelRevision(model.revision)
    from annotationrun_worker.hub.repository import is_offline  # slow to import

    try:
        return ModelRevision(_asked(model, environment, is_required=is_required), is_looked_up=True)
    except (HubAccessError, HubUnavailableError) as error:
        if is_required and not is_offline():
            raise
        known = read_model_commit(store, model.id, model.revision)
        return _not_looked_up(model, known, error)


def _asked(model: ModelSpec, environment: Mapping[str, str], *, is_required: bool) -> str:
    from annotationrun_worker.hub.client import login_token
    from annotationrun_worker.hub.repository import model_commit

    variables = (MODEL_TOKEN_VARIABLE, HUB_TOKEN_VARIABLE)
    token = next(filter(None, (token_in(environment, variable) for variable in variables)), None)
    patience_seconds = None if is_required else PATIENCE_SECONDS
    return model_commit(model.id, model.revision, token or login_token(), patience_seconds=patience_seconds)


def _not_looked_up(model: ModelSpec, known: str | None, error: Exception) -> ModelRevision:
    what = f"{model_text(model)}: the Hub does not say which commit that is now ({error})"
    if known is not None:
        return ModelRevision(known, warnings=(f"{what}; going on with {known}, which it was before",))
    unknown = (
        f"{what}; going on with the revision as it is, so nothing records which commit made the labels; name "
        "one with spec.model.revision or --model-revision"
    )
    return ModelRevision(model.revision, warnings=(unknown,))


def model_text(model: ModelSpec) -> str:
    """The model and its revision, for people."""
    return f"model {model.id!r}, revision {model.revision!r}"


def note_model_revision(model: ModelSpec, found: ModelRevision, store: StagingStore) -> str | None:
    """Note for later runs what the Hub has just said; the commit that was noted before, if it is another.

    Raises:
        StorageError: see ``read_model_commit`` and ``stage_model_commit``.
    """
    if not found.is_looked_up:
        return None
    before = read_model_commit(store, model.id, model.revision)
    if before == found.name:
        return None
    stage_model_commit(store, model.id, model.revision, found.name)
    return before
