"""The Hub of the tests, asked by the Hub's real client: what that gets, and what the server counted."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    RepoFile,
    RepoFolder,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileDuplicationError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tests.support.hub_server.server import HubServer
from tests.support.hub_server.state import Account, Scope
from tests.support.hub_server.with_client import (
    CONTENTS,
    INFO,
    KEY,
    REPO,
    TABLE,
    VIDEO,
    download,
    owner_api,
    small_hub,
)

# The client passes files to its HTTP library in a way that is out of fashion there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with small_hub() as server:
        yield server


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return owner_api(hub)


def commit(api: HfApi, *operations: Any, repo: str = REPO, title: str = "Change", **more: Any) -> Any:
    return api.create_commit(repo, operations, commit_message=title, repo_type="dataset", **more)


def status_of(call: Callable[[], object]) -> int:
    with pytest.raises(HfHubHTTPError) as caught:
        call()
    return caught.value.response.status_code


def test_the_info_of_a_repo_names_its_commit_and_files(hub: HubServer, api: HfApi) -> None:
    hub.add_repo("me/net", {"weights.safetensors": b"w" * 90}, "model")
    info = api.dataset_info(REPO, files_metadata=True)
    files = {one.rfilename: one for one in info.siblings or []}
    assert info.sha == hub.commits(REPO)[0].sha
    assert (info.private, info.gated) == (False, False)
    assert files.keys() == {".gitattributes", *CONTENTS}
    assert {path: files[path].size for path in CONTENTS} == {path: len(CONTENTS[path]) for path in CONTENTS}
    large = files[VIDEO].lfs
    assert large is not None
    assert large.sha256 == hashlib.sha256(CONTENTS[VIDEO]).hexdigest()
    assert files[INFO].lfs is None
    assert api.dataset_info(REPO, expand=["sha"]).siblings is None
    assert api.model_info("me/net").sha == hub.commits("me/net", repo_type="model")[0].sha
    assert hub.counters.requests == {"info": 3}


def test_a_tree_comes_in_pages_with_the_oids_that_git_gives(hub: HubServer, api: HfApi) -> None:
    hub.settings.page_entries = 2
    last = hub.append_commit(REPO, {"meta/extra.json": b"{}"}, "More")
    entries = list(api.list_repo_tree(REPO, repo_type="dataset", recursive=True, expand=True))
    folders = {one.path: one.tree_id for one in entries if isinstance(one, RepoFolder)}
    files = {one.path: one for one in entries if isinstance(one, RepoFile)}
    assert files.keys() == {".gitattributes", "meta/extra.json", *CONTENTS}
    assert folders.keys() == {"data", "data/chunk-000", "meta", "videos", "videos/top"}
    # as `git write-tree` says
    assert files["meta/extra.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"
    assert folders["meta"] == "a70771f82ee5f871289ef8315a89c03f520dd0f3"
    assert folders["data"] == "e21444fce69dabdf1cc8796a6d1529a43e045244"
    changed = files["meta/extra.json"].last_commit
    assert changed is not None
    assert changed.oid == last.sha
    assert hub.counters.requests == {"tree": 5}
    assert [one.path for one in api.list_repo_tree(REPO, "meta", repo_type="dataset")] == [
        "meta/extra.json",
        INFO,
    ]


def test_paths_that_are_not_there_are_left_out_of_paths_info(hub: HubServer, api: HfApi) -> None:
    found = api.get_paths_info(REPO, [VIDEO, "meta", "nothing"], repo_type="dataset")
    assert [one.path for one in found] == [VIDEO, "meta"]
    assert isinstance(found[0], RepoFile)
    assert found[0].xet_hash is not None


def test_a_snapshot_moves_each_file_once(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    for _ in range(2):
        folder = Path(api.snapshot_download(REPO, repo_type="dataset", cache_dir=tmp_path))
    assert {path: (folder / path).read_bytes() for path in CONTENTS} == CONTENTS
    sizes = {(KEY, path): len(content) for path, content in hub.files(REPO).items()}
    assert hub.counters.served == sizes
    assert set(hub.counters.fetches.values()) == {1}
    assert hub.counters.requests["cdn"] == 2


def test_only_the_wanted_files_are_moved(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    api.snapshot_download(REPO, repo_type="dataset", cache_dir=tmp_path, allow_patterns="meta/*")
    assert hub.counters.served == {(KEY, INFO): len(CONTENTS[INFO])}


@pytest.mark.parametrize("path", [INFO, VIDEO])
def test_a_range_brings_that_part(hub: HubServer, path: str) -> None:
    url = f"{hub.url}/datasets/{REPO}/resolve/main/{path}"
    with httpx2.Client(follow_redirects=True) as client:
        middle = client.get(url, headers={"Range": "bytes=3-6"})
        end = client.get(url, headers={"Range": "bytes=-4"})
        beyond = client.get(url, headers={"Range": "bytes=999999-"})
    assert (middle.status_code, middle.content) == (206, CONTENTS[path][3:7])
    assert middle.headers["Content-Range"] == f"bytes 3-6/{len(CONTENTS[path])}"
    assert end.content == CONTENTS[path][-4:]
    assert beyond.status_code == 416
    assert hub.counters.served == {(KEY, path): 8}


def test_a_file_that_is_known_is_not_sent_again(hub: HubServer) -> None:
    url = f"{hub.url}/datasets/{REPO}/resolve/main/{INFO}"
    with httpx2.Client() as client:
        etag = client.head(url).headers["ETag"]
        answer = client.get(url, headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert not hub.counters.served


def test_links_to_large_files_need_their_signature_and_take_no_token(hub: HubServer) -> None:
    with httpx2.Client() as client:
        there = client.head(f"{hub.url}/datasets/{REPO}/resolve/main/{VIDEO}")
        link = there.headers["Location"]
        plain, with_token = client.get(link), client.get(link, headers={"Authorization": "Bearer hf_test"})
        hub.revoke_signatures()
        revoked = client.get(link)
    assert there.headers["X-Linked-Size"] == str(len(CONTENTS[VIDEO]))
    assert there.headers["X-Repo-Commit"] == hub.commits(REPO)[0].sha
    assert not link.startswith(hub.url)
    assert (plain.status_code, with_token.status_code, revoked.status_code) == (200, 400, 403)


def test_links_go_by_the_name_that_the_client_knows(hub: HubServer) -> None:
    url = f"{hub.url}/datasets/{REPO}/resolve/main/{VIDEO}"
    for host in ("hub.default.svc", "hub.default.svc:8000"):
        link = httpx2.head(url, headers={"Host": host}).headers["Location"]
        assert link.startswith(f"http://hub.default.svc:{hub.cdn_port}/cdn/")


def test_commits_are_listed_newest_first_in_pages(hub: HubServer, api: HfApi) -> None:
    hub.settings.commits_per_page = 2
    hub.append_commit(REPO, {"a": b"1"}, "Third")
    listed = api.list_repo_commits(REPO, repo_type="dataset")
    assert [one.title for one in listed] == ["Third", "Upload dataset", "initial commit"]
    assert [one.commit_id for one in listed] == [one.sha for one in hub.commits(REPO)]
    assert hub.counters.requests == {"commits": 2}


def test_a_commit_takes_small_files_along_and_large_ones_over_lfs(
    hub: HubServer, api: HfApi, tmp_path: Path
) -> None:
    (tmp_path / "new.parquet").write_bytes(b"PAR1" + b"n" * 5000)
    made = commit(
        api,
        CommitOperationAdd(TABLE, tmp_path / "new.parquet"),
        CommitOperationAdd("data/other.parquet", b"o" * 40),
        CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n"),
        title="Annotations",
        commit_description="Merge-Digest: 12",
    )
    head, parent, *_ = hub.commits(REPO)
    assert (made.oid, head.title, head.message) == (head.sha, "Annotations", "Merge-Digest: 12")
    assert head.parent == parent.sha
    assert hub.read_file(REPO, TABLE) == b"PAR1" + b"n" * 5000
    assert hub.read_file(REPO, TABLE, parent.sha) == CONTENTS[TABLE]
    assert hub.counters.received == {
        (KEY, TABLE): 5004,
        (KEY, "data/other.parquet"): 40,
        (KEY, "README.md"): 21,
    }
    assert hub.counters.requests == {
        "validate_yaml": 1,
        "preupload": 1,
        "lfs_batch": 1,
        "lfs_upload": 2,
        "lfs_verify": 2,
        "commit": 1,
    }


def test_a_large_upload_goes_in_parts(hub: HubServer, api: HfApi) -> None:
    hub.settings.multipart_above_bytes, hub.settings.part_bytes = 1000, 1024
    content = bytes(range(250)) * 20
    commit(api, CommitOperationAdd("big.mp4", content))
    assert hub.read_file(REPO, "big.mp4") == content
    assert hub.counters.requests["lfs_upload"] == 5
    assert hub.counters.requests["lfs_complete"] == 1
    assert hub.counters.received == {(KEY, "big.mp4"): 5000}


def test_what_has_not_changed_makes_no_commit(hub: HubServer, api: HfApi) -> None:
    made = commit(api, *(CommitOperationAdd(path, content) for path, content in CONTENTS.items()))
    assert made.oid == hub.commits(REPO)[0].sha
    assert hub.counters.requests["preupload"] == 1
    assert "commit" not in hub.counters.requests
    assert not hub.counters.received


def test_files_and_folders_are_deleted(hub: HubServer, api: HfApi) -> None:
    commit(api, CommitOperationDelete(INFO), CommitOperationDelete("videos/"))
    assert hub.files(REPO).keys() == {".gitattributes", TABLE}
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        commit(api, CommitOperationDelete("nothing"))


def test_a_copy_within_a_repo_moves_no_large_file(hub: HubServer, api: HfApi) -> None:
    commit(api, CommitOperationCopy(VIDEO, "v.mp4"), CommitOperationCopy(INFO, "meta/copy.json"))
    assert hub.read_file(REPO, "v.mp4") == CONTENTS[VIDEO]
    assert hub.counters.received == {(KEY, "meta/copy.json"): len(CONTENTS[INFO])}


def cross_copy() -> CommitOperationCopy:
    return CommitOperationCopy(VIDEO, VIDEO, src_repo_id=REPO, src_repo_type="dataset")


def test_a_copy_into_another_repo_moves_no_large_file(hub: HubServer, api: HfApi) -> None:
    api.create_repo("me/target", repo_type="dataset")
    commit(api, cross_copy(), CommitOperationAdd(INFO, b"{}"), repo="me/target")
    assert hub.read_file("me/target", VIDEO) == CONTENTS[VIDEO]
    assert hub.counters.requests["lfs_duplicate"] == 1
    assert hub.counters.received == {("datasets/me/target", INFO): 2}
    assert not hub.counters.served


def test_a_copy_into_another_storage_region_is_refused(hub: HubServer, api: HfApi) -> None:
    api.create_repo("me/target", repo_type="dataset", region="eu")
    with pytest.raises(FileDuplicationError, match="different storage regions"):
        commit(api, cross_copy(), repo="me/target")
    assert hub.counters.requests["lfs_duplicate"] == 1
    assert "commit" not in hub.counters.requests


def test_the_client_copies_no_file_without_a_xet_hash(hub: HubServer, api: HfApi) -> None:
    api.create_repo("me/target", repo_type="dataset")
    hub.repo(REPO).without_xet |= hub.repo(REPO).large.keys()
    with pytest.raises(ValueError, match="has no xet hash"):
        commit(api, cross_copy(), repo="me/target")
    assert hub.counters.requests["paths_info"] > 0
    assert "lfs_duplicate" not in hub.counters.requests


def test_a_commit_onto_an_old_parent_is_refused(hub: HubServer, api: HfApi) -> None:
    parent = hub.commits(REPO)[0].sha
    hub.append_commit(REPO, {"a": b"1"})
    add = CommitOperationAdd("b", b"2")
    assert status_of(lambda: commit(api, add, parent_commit=parent)) == 412
    assert len(hub.commits(REPO)) == 3
    commit(api, add, parent_commit=hub.commits(REPO)[0].sha)
    assert hub.files(REPO).keys() >= {"a", "b"}


def test_a_tag_is_never_moved_but_can_be_made_again(hub: HubServer, api: HfApi) -> None:
    first, old = hub.commits(REPO)[0].sha, hub.commits(REPO)[1].sha
    api.create_tag(REPO, tag="v/1", revision=old, repo_type="dataset")
    assert status_of(lambda: api.create_tag(REPO, tag="v/1", repo_type="dataset")) == 409
    assert hub.repo(REPO).tags == {"v/1": old}
    api.create_tag(REPO, tag="v/1", repo_type="dataset", exist_ok=True)
    assert api.dataset_info(REPO, revision="v/1").sha == old
    api.delete_tag(REPO, tag="v/1", repo_type="dataset")
    with pytest.raises(RevisionNotFoundError):
        api.dataset_info(REPO, revision="v/1")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(REPO, tag="v/1", repo_type="dataset")
    api.create_tag(REPO, tag="v/1", repo_type="dataset")
    tags = api.list_repo_refs(REPO, repo_type="dataset").tags
    assert [(one.name, one.ref, one.target_commit) for one in tags] == [("v/1", "refs/tags/v/1", first)]


def test_a_branch_takes_commits_of_its_own(hub: HubServer, api: HfApi) -> None:
    old = hub.commits(REPO)[1].sha
    api.create_branch(REPO, branch="work/1", revision=old[:7], repo_type="dataset")
    assert status_of(lambda: api.create_branch(REPO, branch="work/1", repo_type="dataset")) == 409
    with pytest.raises(RevisionNotFoundError):
        api.create_branch(REPO, branch="other", revision="nothing", repo_type="dataset")
    commit(api, CommitOperationAdd("b", b"2"), revision="work/1")
    assert hub.files(REPO, "work/1").keys() == {".gitattributes", "b"}
    assert "b" not in hub.files(REPO)
    assert hub.commits(REPO, "work/1")[0].parent == old
    api.delete_branch(REPO, branch="work/1", repo_type="dataset")
    assert hub.repo(REPO).branches.keys() == {"main"}
    assert status_of(lambda: api.delete_branch(REPO, branch="main", repo_type="dataset")) == 403
    with pytest.raises(RevisionNotFoundError):
        commit(api, CommitOperationAdd("b", b"2"), revision="work/1")


def test_a_pull_request_leaves_main_alone_until_it_is_merged(hub: HubServer, api: HfApi) -> None:
    made = commit(api, CommitOperationAdd("b", b"2"), create_pr=True)
    assert (made.pr_num, made.pr_revision) == (1, "refs/pr/1")
    assert "b" not in hub.files(REPO)
    assert hub.read_file(REPO, "b", "refs/pr/1") == b"2"
    commit(api, CommitOperationAdd("c", b"3"), revision="refs/pr/1")
    hub.append_commit(REPO, {"d": b"4"})
    assert [one.num for one in api.get_repo_discussions(REPO, repo_type="dataset")] == [1]
    api.merge_pull_request(REPO, 1, repo_type="dataset")
    details = api.get_discussion_details(REPO, 1, repo_type="dataset")
    assert details.status == "merged"
    assert hub.files(REPO).keys() == {".gitattributes", "b", "c", "d", *CONTENTS}
    refs = api.list_repo_refs(REPO, repo_type="dataset", include_pull_requests=True)
    assert refs.pull_requests is not None
    assert [one.ref for one in refs.pull_requests] == ["refs/pr/1"]


def test_a_pull_request_that_main_contradicts_is_not_merged(hub: HubServer, api: HfApi) -> None:
    pull = api.create_pull_request(REPO, "Title", repo_type="dataset")
    commit(api, CommitOperationAdd(INFO, b"{1}"), revision=pull.git_reference)
    hub.append_commit(REPO, {INFO: b"{2}"})
    assert status_of(lambda: api.merge_pull_request(REPO, pull.num, repo_type="dataset")) == 409
    assert hub.read_file(REPO, INFO) == b"{2}"


def test_a_duplicate_waits_for_its_large_files(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    hub.settings.copies_are_pending = True
    url = api.duplicate_repo(REPO, "me/copy", repo_type="dataset")
    assert (url.repo_id, url.files_copy_pending) == ("me/copy", True)
    assert status_of(lambda: download(api, VIDEO, tmp_path, "me/copy")) == 404
    hub.finish_copies()
    assert download(api, VIDEO, tmp_path, "me/copy") == CONTENTS[VIDEO]
    assert not hub.counters.received
    assert status_of(lambda: api.duplicate_repo(REPO, "me/copy", repo_type="dataset")) == 409


def test_repos_are_made_once_and_moved_and_deleted(hub: HubServer, api: HfApi) -> None:
    url = api.create_repo("me/new", repo_type="dataset", private=True)
    assert (url.repo_id, url.repo_type) == ("me/new", "dataset")
    assert status_of(lambda: api.create_repo("me/new", repo_type="dataset")) == 409
    assert api.create_repo("me/new", repo_type="dataset", exist_ok=True) == url
    assert hub.repo("me/new").private
    api.move_repo("me/new", "me/newer", repo_type="dataset")
    assert api.repo_exists("me/newer", repo_type="dataset")
    assert not api.repo_exists("me/new", repo_type="dataset")
    api.delete_repo("me/newer", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("me/newer", repo_type="dataset")


def test_a_private_repo_is_not_there_for_others(hub: HubServer, api: HfApi) -> None:
    hub.repo(REPO).private = True
    hub.add_account("hf_other", Account("other"))
    assert api.dataset_info(REPO).private
    for token in (False, "hf_other"):
        with pytest.raises(RepositoryNotFoundError):
            api.dataset_info(REPO, token=token)
    assert status_of(lambda: api.dataset_info(REPO, token="hf_nobodys")) == 401


def test_a_gated_repo_shows_its_names_and_keeps_its_files(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    hub.repo(REPO).gated = "manual"
    hub.add_account("hf_other", Account("other"))
    assert api.dataset_info(REPO, token="hf_other").gated == "manual"
    for token, status in ((False, 401), ("hf_other", 403)):
        with pytest.raises(GatedRepoError) as caught:
            download(api, INFO, tmp_path, token=token)
        assert caught.value.response.status_code == status
    hub.repo(REPO).granted.add("other")
    assert download(api, INFO, tmp_path, token="hf_other") == CONTENTS[INFO]


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("hf_other", 403), ("hf_reader", 403)], ids=str)
def test_only_owners_write(hub: HubServer, api: HfApi, token: Any, status: int) -> None:
    hub.add_account("hf_other", Account("other"))
    hub.add_account("hf_reader", Account("me", can_write=False))
    add = CommitOperationAdd("b", b"2")
    assert status_of(lambda: commit(api, add, token=token)) == status
    assert status_of(lambda: api.create_tag(REPO, tag="t", repo_type="dataset", token=token)) == status
    assert len(hub.commits(REPO)) == 2


def test_whoami_names_the_account_and_its_organizations(hub: HubServer, api: HfApi) -> None:
    hub.add_account("hf_team", Account("someone", ("team",)))
    answer = api.whoami(token="hf_team")
    assert (answer["name"], [one["name"] for one in answer["orgs"]]) == ("someone", ["team"])
    api.create_repo("team/new", repo_type="dataset", token="hf_team")
    assert hub.repo("team/new").branches.keys() == {"main"}


def test_a_fine_grained_token_does_what_its_scopes_say(hub: HubServer, api: HfApi) -> None:
    scopes = (Scope("dataset", REPO, ("repo.write",)), Scope("user", "me", ("repo.content.read",)))
    hub.add_account("hf_scoped", Account("me", scopes=scopes, global_permissions=("discussion.write",)))
    told = api.whoami(token="hf_scoped")["auth"]["accessToken"]
    assert (told["role"], told["fineGrained"]["global"]) == ("fineGrained", ["discussion.write"])
    assert [(one["entity"]["type"], one["permissions"]) for one in told["fineGrained"]["scoped"]] == [
        ("dataset", ["repo.write"]),
        ("user", ["repo.content.read"]),
    ]
    commit(api, CommitOperationAdd("b", b"2"), token="hf_scoped")
    api.auth_check(REPO, repo_type="dataset", write=True, token="hf_scoped")
    assert status_of(lambda: api.create_repo("me/new", repo_type="dataset", token="hf_scoped")) == 403


def test_who_only_reads_opens_no_pull_request(hub: HubServer, api: HfApi) -> None:
    hub.add_account("hf_reader", Account("me", can_write=False))
    add = CommitOperationAdd("b", b"2")
    assert status_of(lambda: commit(api, add, token="hf_reader", create_pr=True)) == 403


def test_a_card_without_a_header_brings_a_warning(hub: HubServer, api: HfApi) -> None:
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        commit(api, CommitOperationAdd("README.md", b"Hello"))
    commit(api, CommitOperationAdd("README.md", b"---\na: b\n---\nHello"))  # every warning is an error
    assert hub.read_file(REPO, "README.md") == b"---\na: b\n---\nHello"
