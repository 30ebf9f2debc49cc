"""Publishing with the real client to a Hub: what arrives, what moves, and what is left alone."""

import dataclasses
import json
import logging
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.support.hub_publication import (
    CHANGED,
    DIGEST,
    OTHER_DIGEST,
    PROVENANCE,
    SCENARIOS,
    SOURCE_FILES,
    VIDEOS,
    Scenario,
    journal_is_empty,
    loadable,
    made_commits,
    publication_of,
    publish_to,
    set_up,
    write_merged,
)
from tests.support.hub_server.faults import Fault, When
from tests.support.hub_server.server import HubServer
from tests.support.hub_server.state import Account

from annotationrun_worker.errors import HubAccessError, OutputError, OutputMovedError
from annotationrun_worker.hub import client as calls
from annotationrun_worker.hub.commit import plan_commit
from annotationrun_worker.hub.publication import DIGEST_TRAILER, DesiredFile, HubTarget, Publication
from annotationrun_worker.hub.publish import Intent, PublishJournal, publish
from annotationrun_worker.hub.repository import HubRepository
from annotationrun_worker.staging.store import StagingStore

# The client passes files to its HTTP library in a way that is out of fashion there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

IN_PLACE = SCENARIOS["in place"]
NEW = SCENARIOS["a new repository"]
REQUEST = SCENARIOS["a pull request"]
ELSEWHERE = SCENARIOS["another storage region"]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(calls, "sleep", lambda seconds: None)


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


@pytest.fixture
def merged(tmp_path) -> Path:
    return write_merged(tmp_path / "merged")


@pytest.fixture
def staging(tmp_path) -> Path:
    return tmp_path / "staging"


def dataset_files(files):
    return {
        path: content for path, content in files.items() if not path.startswith(".") and path != "README.md"
    }


def commit_requests(server) -> int:
    return server.counters.requests["commit"]


def received(server, repo_id) -> dict[str, int]:
    return {path: count for (repo, path), count in server.counters.received.items() if repo.endswith(repo_id)}


def test_the_same_repository_gets_one_commit_of_the_changed_files(server, merged, staging):
    source = set_up(server, IN_PLACE)
    publication = publication_of(server.url, merged, IN_PLACE)
    published = publish_to(server, publication, staging, IN_PLACE)
    assert dataset_files(server.files("me/source")) == dataset_files({**SOURCE_FILES, **CHANGED})
    assert set(received(server, "me/source")) == {*CHANGED, "README.md"}
    assert published.previous_commit == source
    assert [commit.sha for commit in server.commits("me/source")][:2] == [published.commit, source]
    assert server.repo("me/source").tags == {"v3.0": published.commit}
    assert commit_requests(server) == 1
    assert published.uploaded_bytes == sum(received(server, "me/source").values())
    assert published.notes == ()
    assert journal_is_empty(staging)


def test_the_commit_tells_where_the_labels_come_from(server, merged, staging):
    set_up(server, IN_PLACE)
    publish_to(server, publication_of(server.url, merged, IN_PLACE), staging, IN_PLACE)
    lines = server.commits("me/source")[0].message.splitlines()
    assert lines[-2:] == [
        f"Annotationrun-Merge-Digest: {DIGEST}",
        f"Annotationrun-Source: me/source@{PROVENANCE.source_commit}",
    ]
    assert f"Model: org/model@{PROVENANCE.model_revision}" in lines
    assert "Episodes: 7; with labels: plan 5, vqa 6; failed: 3" in lines
    assert "Taken away: 4 rows 'memory' of the episodes 1-2" in lines


def test_a_new_repository_gets_the_videos_without_their_bytes_moving(server, merged, staging):
    set_up(server, NEW)
    publication = publication_of(server.url, merged, NEW)
    server.counters.clear()
    published = publish_to(server, publication, staging, NEW)
    assert dataset_files(server.files("me/output")) == dataset_files({**SOURCE_FILES, **CHANGED})
    assert not set(VIDEOS) & set(received(server, "me/output"))
    assert not any(path in VIDEOS for _, path in server.counters.served)
    assert published.copied_files == len(VIDEOS)
    assert len(server.commits("me/output")) == 2, "the Hub's own first one, and ours"
    assert server.repo("me/output").tags == {"v3.0": published.commit}
    assert "license: cc-by-4.0" in server.read_file("me/output", "README.md").decode()


def test_a_repository_is_made_private_if_that_is_asked(server, merged, staging):
    scenario = Scenario(target=HubTarget(private=True))
    set_up(server, scenario)
    publish_to(server, publication_of(server.url, merged, scenario), staging, scenario)
    assert server.repo("me/output").private


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_merge_again_makes_no_second_commit(server, merged, staging, name):
    scenario = SCENARIOS[name]
    set_up(server, scenario)
    publication = publication_of(server.url, merged, scenario)
    first = publish_to(server, publication, staging, scenario)
    server.counters.clear()
    again = publish_to(server, publication, staging, scenario)
    assert again.is_unchanged
    assert (again.commit, again.previous_commit) == (first.commit, first.previous_commit)
    assert again.pull_request == first.pull_request
    assert commit_requests(server) == 0
    assert not received(server, scenario.repo_id)
    assert made_commits(server, scenario.repo_id) == 1
    print(f"\npublished again, {name}: {sum(server.counters.requests.values())} requests")


def test_another_storage_region_gets_the_videos_streamed_one_at_a_time(server, merged, staging):
    set_up(server, ELSEWHERE)
    published = publish_to(server, publication_of(server.url, merged, ELSEWHERE), staging, ELSEWHERE)
    assert dataset_files(server.files("me/output")) == dataset_files({**SOURCE_FILES, **CHANGED})
    assert {path: received(server, "me/output")[path] for path in VIDEOS} == {
        path: len(content) for path, content in VIDEOS.items()
    }
    assert published.copied_files == 0
    assert [note for note in published.notes if "streamed" in note]


def test_a_video_that_the_hub_has_no_xet_hash_of_is_streamed_and_the_others_copied(server, merged, staging):
    set_up(server, NEW)
    repo = server.repo("me/source")
    publication = publication_of(server.url, merged, NEW)
    path = min(VIDEOS)
    repo.without_xet.add(publication.files[path].sha256)
    published = publish_to(server, publication, staging, NEW)
    assert dataset_files(server.files("me/output")) == dataset_files({**SOURCE_FILES, **CHANGED})
    assert [note for note in published.notes if "streamed" in note]


def test_a_source_that_only_another_token_may_read_is_streamed(server, merged, staging):
    set_up(server, NEW)
    server.repo("me/source").private = True
    server.add_account("hf_other", Account("other"))
    scenario = Scenario("other/output")
    publication = publication_of(server.url, merged, scenario)
    published = publish_to(server, publication, staging, scenario, token="hf_other")
    assert dataset_files(server.files("other/output")) == dataset_files({**SOURCE_FILES, **CHANGED})
    assert [note for note in published.notes if "streamed" in note]


def without_video(publication: Publication, digest: str) -> Publication:
    files = {path: file for path, file in publication.files.items() if path != max(VIDEOS)}
    return dataclasses.replace(publication, files=files, merge_digest=digest)


def test_the_next_merge_changes_what_differs_and_deletes_what_is_gone(server, merged, staging):
    set_up(server, NEW)
    publication = publication_of(server.url, merged, NEW)
    first = publish_to(server, publication, staging, NEW)
    assert max(VIDEOS) in server.files("me/output")
    server.append_commit("me/output", {"LICENSE": b"a licence", ".hidden": b"hidden"})
    server.counters.clear()
    (merged / "meta/info.json").write_bytes(b'{"codebase_version": "v3.0", "again": true}')
    publication = without_video(publication_of(server.url, merged, NEW), OTHER_DIGEST)
    second = publish_to(server, publication, staging, NEW)
    files = server.files("me/output")
    assert max(VIDEOS) not in files
    assert files["meta/info.json"] == b'{"codebase_version": "v3.0", "again": true}'
    assert {"LICENSE", ".hidden", ".gitattributes"} <= set(files), "what is not ours stays"
    assert set(received(server, "me/output")) == {"meta/info.json", "README.md"}
    assert second.previous_commit != first.commit, "somebody added a licence between"
    assert server.repo("me/output").tags == {"v3.0": second.commit}
    assert second.tag_gap_seconds > 0


def test_a_repository_with_somebody_elses_files_is_refused(server, merged, staging):
    set_up(server, NEW)
    server.add_repo("me/output", {"README.md": b"mine", "train.csv": b"1,2"})
    with pytest.raises(OutputError, match=r"'train\.csv'"):
        publish_to(server, publication_of(server.url, merged, NEW), staging, NEW)
    assert commit_requests(server) == 0


def test_a_repository_with_a_card_alone_is_empty_and_keeps_its_card(server, merged, staging):
    set_up(server, NEW)
    server.add_repo("me/output", {"README.md": b"---\nlicense: mit\n---\nmine\n"})
    publish_to(server, publication_of(server.url, merged, NEW), staging, NEW)
    card = server.read_file("me/output", "README.md").decode()
    assert "license: mit" in card
    assert "mine" in card
    assert "# Cubes" not in card


def push_meanwhile(monkeypatch, server, repo_id, changed):
    """Let somebody else push once the target was listed; the SHA is there afterwards."""
    foreign = []
    files = HubRepository.files

    def listed_and_pushed(self, commit):
        found = files(self, commit)
        if not foreign and self.repo_id == repo_id:
            foreign.append(server.append_commit(repo_id, changed).sha)
        return found

    monkeypatch.setattr(HubRepository, "files", listed_and_pushed)
    return foreign


@pytest.mark.parametrize("scenario", [IN_PLACE, NEW], ids=["in place", "another repository"])
def test_a_push_of_others_beside_the_dataset_stays(server, merged, staging, scenario, monkeypatch):
    set_up(server, scenario)
    publication = publication_of(server.url, merged, scenario)
    foreign = push_meanwhile(monkeypatch, server, scenario.repo_id, {"README.md": b"rewritten\n"})
    published = publish_to(server, publication, staging, scenario)
    assert published.previous_commit == foreign[0]
    assert commit_requests(server) == 2, "the Hub refused the first: its parent was old"
    assert "rewritten" in server.read_file(scenario.repo_id, "README.md").decode()
    assert made_commits(server, scenario.repo_id) == 1


@pytest.mark.parametrize("scenario", [IN_PLACE, NEW], ids=["in place", "another repository"])
def test_a_push_of_others_into_the_dataset_is_not_overwritten(server, merged, staging, scenario, monkeypatch):
    set_up(server, scenario)
    publication = publication_of(server.url, merged, scenario)
    push_meanwhile(monkeypatch, server, scenario.repo_id, {"meta/info.json": b"theirs"})
    with pytest.raises(OutputMovedError, match=r"'meta/info.json'.*run again"):
        publish_to(server, publication, staging, scenario)
    assert server.read_file(scenario.repo_id, "meta/info.json") == b"theirs"


def test_what_others_pushed_into_the_source_since_the_plan_is_not_overwritten(server, merged, staging):
    set_up(server, IN_PLACE)
    publication = publication_of(server.url, merged, IN_PLACE)
    server.append_commit("me/source", {"data/chunk-000/file-002.parquet": b"PAR1 two"})
    with pytest.raises(OutputMovedError, match=r"file-002.parquet"):
        publish_to(server, publication, staging, IN_PLACE)
    assert commit_requests(server) == 0


def test_another_branch_of_the_source_begins_there_and_moves_no_tag(server, merged, staging):
    scenario = Scenario("me/source", HubTarget(branch="annotated"))
    source = set_up(server, scenario)
    for digest in (DIGEST, OTHER_DIGEST):
        publication = publication_of(server.url, merged, scenario, digest)
        published = publish_to(server, publication, staging, scenario)
    history = [commit.sha for commit in server.commits("me/source", "annotated")]
    assert history[0] == published.commit
    assert history[2] == source
    assert set(received(server, "me/source")) == {*CHANGED, "README.md"}
    assert server.repo("me/source").tags == {"v3.0": source}
    assert server.repo("me/source").branches["main"] == source


def test_a_new_branch_of_another_repository_begins_empty(server, merged, staging):
    scenario = Scenario(target=HubTarget(branch="annotated"))
    set_up(server, scenario)
    server.add_repo("me/output", {"train.csv": b"1,2"})
    publish_to(server, publication_of(server.url, merged, scenario), staging, scenario)
    assert "train.csv" not in server.files("me/output", "annotated")
    assert "train.csv" in server.files("me/output", "main")


def test_a_pull_request_changes_neither_branch_nor_tag(server, merged, staging):
    source = set_up(server, REQUEST)
    published = publish_to(server, publication_of(server.url, merged, REQUEST), staging, REQUEST)
    repo = server.repo("me/source")
    assert repo.branches == {"main": source}
    assert repo.tags == {"v3.0": source}
    assert published.pull_request.endswith("/datasets/me/source/discussions/1")
    assert dataset_files(server.files("me/source", "refs/pr/1")) == dataset_files({**SOURCE_FILES, **CHANGED})


def test_a_merged_pull_request_is_published(server, merged, staging):
    set_up(server, REQUEST)
    publication = publication_of(server.url, merged, REQUEST)
    publish_to(server, publication, staging, REQUEST)
    repo = server.repo("me/source")
    repo.pulls[1].description = repo.commits[repo.pull_heads[1]].message
    merge = repo.merge(1, "me")
    again = publish_to(server, publication, staging, REQUEST)
    assert (again.is_unchanged, again.commit) == (True, merge.sha)
    assert set(repo.pulls) == {1}


def test_a_tag_that_was_set_back_after_the_publish_stays(server, merged, staging):
    source = set_up(server, IN_PLACE)
    publication = publication_of(server.url, merged, IN_PLACE)
    published = publish_to(server, publication, staging, IN_PLACE)
    server.repo("me/source").tags["v3.0"] = source
    again = publish_to(server, publication, staging, IN_PLACE)
    assert server.repo("me/source").tags == {"v3.0": source}
    assert [note for note in again.notes if source in note and published.commit in note]


def test_a_tag_of_a_later_publish_stays(server, merged, staging):
    set_up(server, IN_PLACE)
    publication = publication_of(server.url, merged, IN_PLACE)
    publish_to(server, publication, staging, IN_PLACE)
    later = server.append_commit("me/source", {"meta/stats.json": b"{1}"}).sha
    repo = server.repo("me/source")
    repo.tags["v3.0"] = later
    journal = PublishJournal(StagingStore(staging))
    journal.write(Intent(DIGEST, "me/source", "main", "v3.0"))
    assert publish_to(server, publication, staging, IN_PLACE).notes == ()
    assert repo.tags == {"v3.0": later}
    assert journal_is_empty(staging)


def test_a_tag_that_another_publish_left_deleted_comes_back_first(server, merged, staging):
    set_up(server, IN_PLACE)
    made = server.append_commit("me/source", {}, message=f"{DIGEST_TRAILER}: {OTHER_DIGEST}").sha
    repo = server.repo("me/source")
    del repo.tags["v3.0"]
    PublishJournal(StagingStore(staging)).write(Intent(OTHER_DIGEST, "me/source", "main", "v3.0", made))
    publication = publication_of(server.url, merged, IN_PLACE)
    server.append_commit("me/source", {"meta/info.json": b"theirs"})
    with pytest.raises(OutputMovedError, match=r"'meta/info\.json'"):
        publish_to(server, publication, staging, IN_PLACE)
    assert repo.tags == {"v3.0": made}
    assert journal_is_empty(staging)


@pytest.mark.parametrize("is_tagged", [True, False], ids=["tagged", "untagged"])
def test_notes_that_somebody_else_planted_create_no_tag(server, merged, staging, caplog, is_tagged):
    """Who shares the store could else have the victim's token name any commit of the repository."""
    source = set_up(server, IN_PLACE)
    made = server.append_commit("me/source", {}, message=f"{DIGEST_TRAILER}: {OTHER_DIGEST}").sha
    repo = server.repo("me/source")
    if not is_tagged:
        del repo.tags["v3.0"]
    stolen = server.append_commit("me/source", {}, message=f"{DIGEST_TRAILER}: {'3' * 64}").sha
    store = StagingStore(staging)
    planted = [
        Intent(OTHER_DIGEST, "me/source", "main", "v3.1", source),
        Intent("2" * 64, "me/source", "main", "v3.0", "0" * 40),
        Intent("1" * 64, "me/source", "main", "v2.0", made),
        Intent(OTHER_DIGEST, "me/source", "no-such-branch", "v3.0", made),
        Intent("3" * 64, "me/source", "main", "stolen", stolen),
    ]
    for intent in planted:
        store.put_now(intent.path, json.dumps(asdict(intent)).encode())
    store.put_now("publishes/junk.json", json.dumps(asdict(planted[0])).encode())
    for number, content in enumerate([b"", b"{", b"[" * 100_000, b"{}", b'{"commit": 1}', b"\xff"]):
        store.put_now(f"publishes/junk-{number}.json", content)
    publication = publication_of(server.url, merged, IN_PLACE)
    published = publish_to(server, publication, staging, IN_PLACE)
    assert repo.tags == {"v3.0": published.commit}
    junk = ["junk", *(f"junk-{number}" for number in range(6))]
    for path in [*(intent.path for intent in planted), *(f"publishes/{name}.json" for name in junk)]:
        assert path in caplog.text
        assert store.read_now(path) is not None


def test_a_repository_without_a_version_tag_gets_it(server, merged, staging):
    set_up(server, IN_PLACE)
    repo = server.repo("me/source")
    repo.tags.clear()
    published = publish_to(server, publication_of(server.url, merged, IN_PLACE), staging, IN_PLACE)
    assert repo.tags == {"v3.0": published.commit}
    assert published.tag_gap_seconds == 0
    assert loadable(server, "me/source")["meta/info.json"] == CHANGED["meta/info.json"]


def test_a_token_that_may_not_write_is_told_so_and_not_shown(server, merged, staging, caplog):
    set_up(server, IN_PLACE)
    server.add_account("hf_reads_only", Account("me", can_write=False))
    publication = publication_of(server.url, merged, IN_PLACE)
    with pytest.raises(HubAccessError, match="right scope") as raised:
        publish_to(server, publication, staging, IN_PLACE, token="hf_reads_only")
    assert "hf_reads_only" not in str(raised.value) + caplog.text


def test_signatures_of_uploads_are_in_no_log(server, merged, staging, caplog, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    set_up(server, NEW)
    publication = publication_of(server.url, merged, NEW)
    server.faults.add(Fault("status", 503), When(method="PUT"), times=2)
    publish_to(server, publication, staging, NEW)
    assert "503" in caplog.text
    assert "Signature" not in caplog.text


def test_a_commit_that_the_hub_takes_without_a_file_is_not_tagged(server, merged, staging, monkeypatch):
    source = set_up(server, IN_PLACE)
    publication = publication_of(server.url, merged, IN_PLACE)
    lost = dict(publication.files) | {"meta/lost.json": DesiredFile(3, None)}
    monkeypatch.setattr(
        "annotationrun_worker.hub.push.plan_commit",
        lambda desired, *rest, **options: plan_commit(publication.files, *rest, **options),
    )
    with pytest.raises(OutputError, match=r"lacks 'meta/lost.json'"):
        publish_to(server, dataclasses.replace(publication, files=lost), staging, IN_PLACE)
    assert server.repo("me/source").tags == {"v3.0": source}


def test_a_folder_is_published_whole(server, merged, staging):
    set_up(server, NEW)
    publication = publication_of(server.url, merged, NEW)
    for path, content in VIDEOS.items():
        (merged / path).parent.mkdir(parents=True, exist_ok=True)
        (merged / path).write_bytes(content)
    files = {path: dataclasses.replace(file, local=merged / path) for path, file in publication.files.items()}
    publication = dataclasses.replace(publication, source=None, files=files)
    published = publish(HubRepository("me/output", "hf_test", server.url), publication, StagingStore(staging))
    assert dataset_files(server.files("me/output")) == dataset_files({**SOURCE_FILES, **CHANGED})
    assert published.copied_files == 0
    card = server.read_file("me/output", "README.md").decode()
    assert "license: cc-by-4.0" in card, "the folder's own card is the new repository's"
    assert "# Cubes\n\nTwo arms, one cube.\n" in card
    assert "## Language annotations" in card
