"""A run's source: a folder, or a dataset on the Hub that is fetched as it is needed."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_types import SecretKeyRef
from annotationrun_api.step_results import HUB_TOKEN_VARIABLE, SOURCE_TOKEN_VARIABLE
from annotationrun_worker.dataset.files import DatasetFiles, FolderFiles
from annotationrun_worker.dataset.layout import check_entries, is_data_file
from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.merge.source_tree import SourceTree, folder_tree
from annotationrun_worker.run.places import HubPlace, Places

if TYPE_CHECKING:
    from annotationrun_worker.hub.mirror import HubMirror

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
    from annotationrun_worker.hub.login import login_token  # runs between folders need no Hub: slow to import

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
    from annotationrun_worker.hub.file_cache import FileCache
    from annotationrun_worker.hub.mirror import open_mirror
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
    from annotationrun_worker.merge.hub_tree import hub_tree

    return hub_tree(mirror)


def _mirror_of(files: DatasetFiles) -> "HubMirror | None":
    if isinstance(files, FolderFiles):
        return None
    from annotationrun_worker.hub.mirror import HubMirror

    assert isinstance(files, HubMirror), "there are two kinds"  # noqa: S101
    return files
