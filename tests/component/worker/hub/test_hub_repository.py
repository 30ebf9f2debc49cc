"""A dataset on the Hub, read: what comes of a Hub that is busy, silent, wrong or gone."""

import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants
from tests.support.hub_server.faults import Fault, When, too_many_requests
from tests.support.hub_server.server import HubServer

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.errors import (
    ConfigurationError,
    DatasetError,
    HubAccessError,
    HubUnavailableError,
    StorageError,
)
from annotationrun_worker.exit_status import exit_code_of
from annotationrun_worker.hub import client as calls
from annotationrun_worker.hub.cache import FileCache, HubMirror
from annotationrun_worker.hub.repository import HubFile, HubRepository

REPO, KEY = "me/source", "datasets/me/source"
VIDEO, INFO = "videos/top/file-000.mp4", "meta/info.json"
SIZE = 1_000_000
CONTENTS = {VIDEO: bytes(range(250)) * (SIZE // 250), INFO: b'{"fps": 30}'}
LIMIT_SECONDS = 120


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each pause between two tries would have been, of which a long one has pieces."""
    waited: list[float] = []
    monkeypatch.setattr(calls, "sleep", waited.append)
    return waited


@pytest.fixture
def hub(waits: list[float]) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo(REPO, CONTENTS)
        yield server
        close_session()


@pytest.fixture
def repository(hub: HubServer) -> HubRepository:
    return HubRepository(REPO, endpoint=hub.url)


def fetch(
    repository: HubRepository, target: Path, path: str = VIDEO, stopped: threading.Event | None = None
) -> bytes:
    commit = repository.resolve("main")
    repository.download(repository.files(commit)[path], commit, target, stopped)
    return target.read_bytes()


@contextmanager
def mirror(repository: HubRepository, folder: Path, cache_bytes: int = 1 << 30) -> Iterator[HubMirror]:
    commit = repository.resolve("main")
    opened = HubMirror(repository, commit, repository.files(commit), FileCache(folder, cache_bytes))
    with closing(opened):
        yield opened


@pytest.mark.parametrize("path", [VIDEO, INFO], ids=["in LFS", "in Git"])
def test_a_file_comes_whole(repository: HubRepository, tmp_path: Path, path: str) -> None:
    assert fetch(repository, tmp_path / "file", path) == CONTENTS[path]


def test_an_empty_file_comes_too(hub: HubServer, repository: HubRepository, tmp_path: Path) -> None:
    hub.append_commit(REPO, {"empty": b""})
    assert fetch(repository, tmp_path / "file", "empty") == b""


@pytest.mark.parametrize(
    ("left", "served"),
    [
        pytest.param(CONTENTS[VIDEO][:300_000], SIZE - 300_000, id="its beginning"),
        pytest.param(CONTENTS[VIDEO], 0, id="all of it"),
        pytest.param(b"x" * 300_000, 2 * SIZE - 300_000, id="something else"),
        pytest.param(b"x" * SIZE, SIZE, id="something else as long"),
        pytest.param(b"x" * (SIZE + 1), SIZE, id="more than it has"),
    ],
)
def test_what_is_there_is_gone_on_with_if_it_is_the_beginning(
    hub: HubServer, repository: HubRepository, tmp_path: Path, left: bytes, served: int
) -> None:
    (tmp_path / "file").write_bytes(left)
    assert fetch(repository, tmp_path / "file") == CONTENTS[VIDEO]
    assert hub.counters.served[KEY, VIDEO] == served


def test_a_transfer_that_is_cut_is_gone_on_with(
    hub: HubServer, repository: HubRepository, tmp_path: Path
) -> None:
    hub.faults.add(Fault("cut", after_bytes=SIZE // 2), When(kind="cdn"))
    assert fetch(repository, tmp_path / "file") == CONTENTS[VIDEO]
    assert hub.counters.served[KEY, VIDEO] == SIZE


def test_a_transfer_that_is_cut_again_and_again_ends_as_long_as_something_comes(
    hub: HubServer, repository: HubRepository, tmp_path: Path
) -> None:
    hub.faults.add(Fault("cut", after_bytes=SIZE // 20), When(kind="cdn"), times=None)
    assert fetch(repository, tmp_path / "file") == CONTENTS[VIDEO]
    assert hub.counters.served[KEY, VIDEO] == SIZE
    assert hub.counters.fetches[KEY, VIDEO] >= 20 > calls.ATTEMPTS


def test_a_byte_that_turned_on_the_way_is_noticed(
    hub: HubServer, repository: HubRepository, tmp_path: Path
) -> None:
    hub.faults.add(Fault("corrupt", after_bytes=12_345), When(kind="cdn"))
    assert fetch(repository, tmp_path / "file") == CONTENTS[VIDEO]
    assert hub.counters.fetches[KEY, VIDEO] == 2


def test_a_file_whose_bytes_are_never_right_is_told(
    hub: HubServer, repository: HubRepository, tmp_path: Path
) -> None:
    hub.faults.add(Fault("corrupt", after_bytes=3), When(kind="resolve", path=INFO), times=None)
    with pytest.raises(HubUnavailableError, match="the bytes that came are not those of the file") as caught:
        fetch(repository, tmp_path / "file", INFO)
    assert exit_code_of(caught.value) == ExitCode.FAILED
    assert all(word in str(caught.value) for word in (INFO, REPO, "6 tries", "run again later"))
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("kind", ["info", "tree", "resolve", "cdn"])
def test_a_hub_that_fails_twice_is_asked_again(
    hub: HubServer, repository: HubRepository, tmp_path: Path, kind: str
) -> None:
    hub.faults.add(Fault("status", 500), When(kind=kind), times=2)
    assert fetch(repository, tmp_path / "file") == CONTENTS[VIDEO]


@pytest.mark.parametrize("kind", ["info", "resolve", "cdn"])
@pytest.mark.parametrize("rate_limit", [False, True], ids=["Retry-After", "RateLimit"])
def test_a_hub_that_asks_for_patience_is_left_alone_so_long(
    hub: HubServer, repository: HubRepository, tmp_path: Path, waits: list[float], kind: str, rate_limit: bool
) -> None:
    hub.faults.add(too_many_requests(7, rate_limit), When(kind=kind))
    assert fetch(repository, tmp_path / "file") == CONTENTS[VIDEO]
    assert sum(waits) == 7


def test_nobody_waits_for_hours(hub: HubServer, repository: HubRepository, waits: list[float]) -> None:
    hub.faults.add(too_many_requests(86_400), When(kind="info"))
    repository.resolve("main")
    assert sum(waits) == calls.LONGEST_WAIT_SECONDS


def test_a_hub_that_is_busy_for_good_is_told(hub: HubServer, repository: HubRepository) -> None:
    hub.faults.add(Fault("status", 503), When(kind="info"), times=None)
    with pytest.raises(HubUnavailableError, match="gave no usable answer after 6 tries") as caught:
        repository.resolve("main")
    assert "503" in str(caught.value)
    assert hub.counters.requests["info"] == calls.ATTEMPTS


def test_a_hub_that_is_not_there_is_told(waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(HubUnavailableError, match="Connection refused") as caught:
        HubRepository(REPO, endpoint=f"http://127.0.0.1:{port}").resolve("main")
    assert exit_code_of(caught.value) == ExitCode.FAILED
    assert len(waits) >= calls.ATTEMPTS - 1


def test_an_address_that_is_none_is_told_at_once(waits: list[float]) -> None:
    with pytest.raises(HubAccessError, match="HF_ENDPOINT") as caught:
        HubRepository(REPO, endpoint="hub.example").resolve("main")
    assert exit_code_of(caught.value) == ExitCode.CONFIGURATION
    assert waits == []


def test_a_transfer_in_which_nothing_comes_is_begun_again(
    hub: HubServer, repository: HubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    hub.faults.add(Fault("hang"), When(kind="cdn"))
    assert fetch(repository, tmp_path / "file") == CONTENTS[VIDEO]
    assert len(hub.faults.hit) == 1


def test_a_transfer_ends_soon_when_the_run_does(
    hub: HubServer, repository: HubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    hub.faults.add(Fault("hang"), When(kind="cdn"), times=None)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(HubUnavailableError):
        fetch(repository, tmp_path / "file", stopped=stopped)
    assert len(hub.faults.hit) == 1


def test_a_listed_file_that_is_not_there_is_the_datasets_fault(
    hub: HubServer, repository: HubRepository, tmp_path: Path
) -> None:
    commit = repository.resolve("main")
    with pytest.raises(DatasetError, match="the commit has no such file") as caught:
        repository.download(HubFile("data/gone.parquet", 5, "0" * 40, None), commit, tmp_path / "file")
    assert "data/gone.parquet" in str(caught.value)


def test_a_large_file_that_the_hub_has_lost_is_told(
    hub: HubServer, repository: HubRepository, tmp_path: Path
) -> None:
    hub.repo(REPO).pending.update(hub.repo(REPO).large)
    with pytest.raises(HubAccessError, match="404") as caught:
        fetch(repository, tmp_path / "file")
    assert VIDEO in str(caught.value)
    assert "Signature" not in str(caught.value)


def test_a_commit_is_named_without_a_question(hub: HubServer, repository: HubRepository) -> None:
    commit = repository.resolve("main")
    hub.counters.clear()
    assert repository.resolve(commit) == commit
    assert hub.counters.requests == {}


def test_a_commit_that_is_not_there_is_told_when_its_files_are_listed(repository: HubRepository) -> None:
    with pytest.raises(HubAccessError, match="no such branch, tag or commit"):
        repository.files("0" * 40)


@pytest.mark.parametrize("path", ["../../etc/x", "meta/../../x"])
def test_a_path_that_leads_out_of_the_repository_is_refused(
    hub: HubServer, repository: HubRepository, path: str
) -> None:
    hub.append_commit(REPO, {path: b"x"})
    with pytest.raises(DatasetError, match="expected a path within the repository") as caught:
        repository.files(repository.resolve("main"))
    assert repr(path) in str(caught.value)
    assert exit_code_of(caught.value) == ExitCode.DATASET


def test_a_path_may_have_any_letters(hub: HubServer, repository: HubRepository, tmp_path: Path) -> None:
    path = "data/Übung #1 100%/ß? [x].parquet"
    hub.append_commit(REPO, {path: b"PAR1"})
    with mirror(repository, tmp_path) as opened, opened.using(opened.root / path):
        assert (opened.root / path).read_bytes() == b"PAR1"


def test_a_repository_of_very_many_files_is_listed_by_pages_and_held_with_few_open_files(
    hub: HubServer, repository: HubRepository, tmp_path: Path
) -> None:
    hub.settings.page_entries = 100
    many = {f"data/file-{number:04d}": b"%d" % number for number in range(350)}
    hub.append_commit(REPO, many)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with mirror(repository, tmp_path) as opened:
            assert many.keys() < opened.files.keys()
            opened.hold(list(many))
            assert {path: (opened.root / path).read_bytes() for path in many} == many
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert hub.counters.requests["tree"] == 4


def test_files_that_are_needed_at_once_and_never_fit_are_told_before_one_is_fetched(
    hub: HubServer, repository: HubRepository, tmp_path: Path
) -> None:
    with (
        mirror(repository, tmp_path, cache_bytes=SIZE) as opened,
        pytest.raises(ConfigurationError, match=r"raise spec\.source\.cacheBytes"),
    ):
        opened.hold([VIDEO, INFO])
    assert hub.counters.served == {}


def test_the_same_content_at_two_paths_is_fetched_once(
    hub: HubServer, repository: HubRepository, tmp_path: Path
) -> None:
    hub.append_commit(REPO, {"videos/copy.mp4": CONTENTS[VIDEO]})
    with mirror(repository, tmp_path) as opened:
        opened.hold([VIDEO, "videos/copy.mp4"])
        assert (opened.root / "videos/copy.mp4").read_bytes() == CONTENTS[VIDEO]
    assert sum(hub.counters.fetches.values()) == 1


def test_the_next_commit_shares_what_did_not_change(
    hub: HubServer, repository: HubRepository, tmp_path: Path
) -> None:
    with mirror(repository, tmp_path) as opened:
        opened.hold([VIDEO, INFO])
    hub.append_commit(REPO, {INFO: b'{"fps": 15}'})
    with mirror(repository, tmp_path) as opened:
        opened.hold([VIDEO, INFO])
        assert (opened.root / INFO).read_bytes() == b'{"fps": 15}'
    assert hub.counters.fetches == {(KEY, VIDEO): 1, (KEY, INFO): 2}


def test_a_place_of_the_cache_that_cannot_be_linked_is_told(
    repository: HubRepository, tmp_path: Path
) -> None:
    (tmp_path / "datasets").write_text("a file")
    with (
        mirror(repository, tmp_path) as opened,
        pytest.raises(StorageError, match="can't be made a link"),
        opened.using(opened.root / INFO),
    ):
        pass


def test_the_first_failure_ends_all_transfers(
    hub: HubServer, repository: HubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hangs ends by its own limit then; nothing of it is tried again, and nothing more is begun."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    many = {f"data/file-{number:04d}.parquet": b"%d" % number for number in range(40)}
    hub.append_commit(REPO, many)
    hub.faults.add(Fault("status", 404), When(kind="cdn", path="file-0000"), times=None)
    hub.faults.add(Fault("hang"), When(kind="cdn"), times=None)
    with mirror(repository, tmp_path) as opened, pytest.raises(HubAccessError, match="file-0000"):
        opened.hold(list(many))
    assert len(hub.faults.hit) < len(many)


def test_a_token_stands_in_no_text(hub: HubServer, tmp_path: Path) -> None:
    repository = HubRepository(REPO, "hf_secret", endpoint=hub.url)
    with pytest.raises(HubAccessError) as caught:
        repository.resolve("main")
    assert "the token is wrong" in str(caught.value)
    assert "hf_secret" not in f"{caught.value} {caught.value!r} {repository!r}"
