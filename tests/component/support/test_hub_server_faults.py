"""Faults of the tests' Hub, as its real client meets them; and the Hub as a program of its own."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, close_session, constants
from huggingface_hub.errors import HfHubHTTPError
from tests.support.checkout import ROOT
from tests.support.hub_server.faults import Call, Fault, When, too_many_requests
from tests.support.hub_server.server import DEFAULT_TOKEN, HubServer
from tests.support.hub_server.with_client import (
    CONTENTS,
    INFO,
    KEY,
    REPO,
    VIDEO,
    download,
    owner_api,
    small_hub,
)

# The client passes files to its HTTP library in a way that is out of fashion there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
PROJECT = ROOT


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with small_hub() as server:
        yield server


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return owner_api(hub)


def commit(api: HfApi, content: bytes = b"new", path: str = "new.json", **more: Any) -> None:
    add = CommitOperationAdd(path, content)
    api.create_commit(REPO, [add], commit_message="New", repo_type="dataset", **more)


def statuses(hub: HubServer, kind: str) -> list[int]:
    return [line.status for line in hub.counters.log if line.kind == kind]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 500),
        Fault("status", 503),
        Fault("lost"),
        too_many_requests(0),
        too_many_requests(0, rate_limit=True),
    ],
    ids=["500", "503", "lost", "Retry-After", "RateLimit"],
)
def test_the_client_asks_again_where_it_may(hub: HubServer, api: HfApi, fault: Fault) -> None:
    hub.faults.add(fault, When(number=1))
    names = {one.path for one in api.list_repo_tree(REPO, repo_type="dataset")}
    first = 0 if fault.kind == "lost" else fault.status
    assert names == {".gitattributes", "data", "meta", "videos"}
    assert statuses(hub, "tree") == [first, 200]
    assert [(call.number, done) for call, done in hub.faults.hit] == [(1, fault)]


def test_the_client_waits_as_long_as_the_server_says(
    hub: HubServer, api: HfApi, caplog: pytest.LogCaptureFixture
) -> None:
    hub.faults.add(too_many_requests(1, rate_limit=True), When(kind="tree"))
    list(api.list_repo_tree(REPO, repo_type="dataset"))
    assert "Waiting 2.0s before retry" in caplog.text  # it adds one


def test_a_commit_is_not_asked_for_again(hub: HubServer, api: HfApi) -> None:
    hub.faults.add(Fault("status", 503), When(kind="commit"))
    with pytest.raises(HfHubHTTPError, match="On purpose"):
        commit(api)
    assert statuses(hub, "commit") == [503]
    assert len(hub.commits(REPO)) == 2


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        (Fault("lost"), httpx2.RemoteProtocolError, 0),
        (Fault("status", 500, is_carried_out=True), HfHubHTTPError, 500),
    ],
    ids=["lost", "500"],
)
def test_a_commit_may_be_there_though_its_answer_is_not(
    hub: HubServer, api: HfApi, fault: Fault, error: type[Exception], status: int
) -> None:
    hub.faults.add(fault, When(kind="commit"))
    with pytest.raises(error):
        commit(api)
    assert statuses(hub, "commit") == [status]
    assert hub.read_file(REPO, "new.json") == b"new"


def test_a_cut_transfer_goes_on_where_it_ended(
    hub: HubServer, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # it forgets what is less than a chunk
    hub.faults.add(Fault("cut", after_bytes=1000), When(kind="cdn"))
    assert download(api, VIDEO, tmp_path) == CONTENTS[VIDEO]
    assert statuses(hub, "cdn") == [200, 206]
    assert hub.counters.served == {(KEY, VIDEO): len(CONTENTS[VIDEO])}
    assert hub.counters.fetches == {(KEY, VIDEO): 2}


def test_a_cut_upload_is_sent_again(hub: HubServer, api: HfApi) -> None:
    hub.faults.add(Fault("cut", after_bytes=1000), When(kind="lfs_upload"))
    commit(api, CONTENTS[VIDEO] + b"!", "new.mp4")
    assert statuses(hub, "lfs_upload") == [0, 200]
    assert hub.read_file(REPO, "new.mp4") == CONTENTS[VIDEO] + b"!"
    assert hub.counters.received_by_kind["lfs_upload"] == 1000 + len(CONTENTS[VIDEO]) + 1


def test_a_corrupt_transfer_has_its_size_and_another_hash(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    hub.faults.add(Fault("corrupt", after_bytes=7), When(kind="cdn"))
    got = download(api, VIDEO, tmp_path)  # without Xet the client looks at sizes alone
    at = [index for index, byte in enumerate(got) if byte != CONTENTS[VIDEO][index]]
    assert (len(got), at) == (len(CONTENTS[VIDEO]), [7])
    assert hashlib.sha256(got).hexdigest() != hashlib.sha256(CONTENTS[VIDEO]).hexdigest()


def hang_at(hub: HubServer, kind: str) -> threading.Event:
    """Set when a request of this kind has arrived and hangs."""
    arrived = threading.Event()

    def is_wanted(call: Call) -> bool:
        if call.kind == kind:
            arrived.set()
        return call.kind == kind

    hub.faults.add(Fault("hang"), is_wanted)
    return arrived


def test_a_request_that_hangs_is_not_carried_out_if_the_client_leaves(hub: HubServer, api: HfApi) -> None:
    arrived = hang_at(hub, "tag_create")
    url, headers = f"{hub.url}/api/datasets/{REPO}/tag/main", {"Authorization": "Bearer hf_test"}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(url, json={"tag": "t"}, headers=headers, timeout=httpx2.Timeout(60, read=0.3))
    assert arrived.wait(60)
    hub.faults.release()  # too late for it
    api.create_tag(REPO, tag="other", repo_type="dataset")
    assert hub.repo(REPO).tags.keys() == {"other"}


def test_a_request_that_hangs_goes_on_when_it_is_released(hub: HubServer, api: HfApi) -> None:
    arrived = hang_at(hub, "tag_create")
    tag = {"tag": "t", "repo_type": "dataset"}
    create = threading.Thread(target=api.create_tag, args=(REPO,), kwargs=tag)
    create.start()
    assert arrived.wait(60)
    assert not hub.repo(REPO).tags
    while create.is_alive():
        hub.faults.release()
        create.join(0.05)
    assert hub.repo(REPO).tags.keys() == {"t"}


@pytest.mark.parametrize(("times", "last"), [(2, 200), (None, 500)], ids=["twice", "always"])
def test_a_fault_comes_as_often_as_it_was_asked_for(
    hub: HubServer, api: HfApi, times: int | None, last: int
) -> None:
    hub.faults.add(Fault("status", 500), When(method="GET", path=f"/api/datasets/{REPO}"), times)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="On purpose"):
            api.dataset_info(REPO)
    assert httpx2.get(f"{hub.url}/api/datasets/{REPO}").status_code == last
    hub.faults.clear()
    assert api.dataset_info(REPO).id == REPO


def test_requests_are_numbered_in_the_order_of_arrival(hub: HubServer, api: HfApi) -> None:
    api.dataset_info(REPO)
    commit(api)
    hub.counters.clear()
    api.list_repo_refs(REPO, repo_type="dataset")
    [line] = hub.counters.log
    assert (line.number, line.method, line.path, line.status, line.kind, line.client) == (
        4,
        "GET",
        f"/api/datasets/{REPO}/refs",
        200,
        "refs",
        "127.0.0.1",
    )


def test_a_client_that_wants_xet_is_told_that_there_is_none(hub: HubServer) -> None:
    answer = httpx2.get(f"{hub.url}/api/datasets/{REPO}/xet-read-token/main")
    assert (answer.status_code, "HF_HUB_DISABLE_XET=1" in answer.text) == (501, True)


def test_a_process_finds_the_hub_by_its_environment(hub: HubServer, tmp_path: Path) -> None:
    code = f"import huggingface_hub as h; print(h.snapshot_download({REPO!r}, repo_type='dataset'))"
    environment = {**os.environ, **hub.environment, "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=300
    )
    assert (Path(done.stdout.strip()) / VIDEO).read_bytes() == CONTENTS[VIDEO]
    assert hub.counters.requests["cdn"] == 2
    assert "xet_token" not in hub.counters.requests


@pytest.fixture
def program(tmp_path: Path) -> Iterator[str]:
    """The address of a Hub in a process that has the standard library alone."""
    (tmp_path / "repos/datasets/me/source/meta").mkdir(parents=True)
    (tmp_path / "repos/datasets/me/source/meta/info.json").write_bytes(CONTENTS[INFO])
    command = [sys.executable, "-S", "-m", "tests.support.hub_server"]
    command += ["--folder", str(tmp_path / "repos"), "--port", "0", "--cdn-port", "0", "--token", "hf_pod"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"Hub on port (\d+)", process.stdout.readline())
        assert found is not None
        yield f"http://127.0.0.1:{found[1]}"
        close_session()
        process.terminate()
        assert process.wait(60) == 0


def test_the_program_serves_a_folder_and_obeys_over_http(program: str, tmp_path: Path) -> None:
    api = HfApi(endpoint=program, token="hf_pod")
    assert httpx2.get(f"{program}/__health").status_code == 200
    assert download(api, INFO, tmp_path / "cache") == CONTENTS[INFO]
    fault = {"kind": "status", "status": 500, "is_carried_out": True}
    rules = [{"fault": fault, "when": {"kind": "commit"}, "times": 1}]
    assert httpx2.post(f"{program}/__faults", content=json.dumps(rules)).status_code == 200
    with pytest.raises(HfHubHTTPError):
        commit(api)
    counters = httpx2.get(f"{program}/__counters").json()
    assert counters["served"] == {KEY: {INFO: len(CONTENTS[INFO])}}
    assert counters["received"] == {KEY: {"new.json": 3}}
    assert counters["requests"] == {"resolve_head": 1, "resolve": 1, "preupload": 1, "commit": 1}
    assert [line["status"] for line in counters["log"]] == [200, 200, 200, 500]
    assert api.list_repo_commits(REPO, repo_type="dataset")[0].title == "New"
    assert httpx2.post(f"{program}/__clear").status_code == 200
    assert httpx2.get(f"{program}/__counters").json()["requests"] == {}


def test_the_program_refuses_other_tokens(program: str) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(endpoint=program, token=DEFAULT_TOKEN).whoami()
