"""Publishing to a place that was published to before: by us, by others, in part, or to the wrong place."""

import dataclasses
import hashlib
import json

import pytest
from huggingface_hub import CommitOperationAdd
from tests.support.hub_publication import (
    CHANGED,
    PROVENANCE,
    SCENARIOS,
    SOURCE_FILES,
    VIDEOS,
    Scenario,
    journal_is_empty,
    publication_of,
    publish_to,
    set_up,
    write_merged,
)
from tests.support.hub_server.faults import Fault, When
from tests.support.hub_server.server import DEFAULT_TOKEN, HubServer

from annotationrun_worker import fault_points
from annotationrun_worker.errors import OutputError, OutputMovedError
from annotationrun_worker.fault_points import FaultPoint
from annotationrun_worker.hub import client as calls
from annotationrun_worker.hub.commit import plan_commit
from annotationrun_worker.hub.publication import RECORD_NAME, HubTarget, commit_body, commit_title
from annotationrun_worker.hub.publish import Intent, PublishJournal
from annotationrun_worker.hub.repository import HubRepository
from annotationrun_worker.staging.store import StagingStore

# The client passes files to its HTTP library in a way that is out of fashion there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

DATA = "data/chunk-000/file-000.parquet"
IN_PLACE = SCENARIOS["in place"]
NEW = SCENARIOS["a new repository"]
REQUEST = SCENARIOS["a pull request"]
BRANCH = Scenario("me/source", HubTarget(branch="annotated"))
FOREIGN_BRANCH = Scenario(target=HubTarget(branch="annotated"))


def digest_of(labels):
    return hashlib.sha256(labels.encode()).hexdigest()


class World:
    """A Hub, a merged dataset whose labels change, and a journal."""

    def __init__(self, server, folder):
        self.server = server
        self.merged = write_merged(folder / "merged")
        self.staging = folder / "staging"

    def merge(self, scenario, labels):
        """The publication of a merge with these labels."""
        data = b"PAR1 " + labels.encode()
        (self.merged / DATA).write_bytes(data)
        names = {**SOURCE_FILES, **CHANGED}.keys() - {RECORD_NAME, "README.md"} - VIDEOS.keys()
        marks = {name: hashlib.sha256((self.merged / name).read_bytes()).hexdigest() for name in names}
        record = {
            "mergeDigest": digest_of(labels),
            "sourceIdentity": "f" * 64 if scenario.is_in_place else None,
            "files": marks | {name: len(content) for name, content in VIDEOS.items()},
        }
        (self.merged / RECORD_NAME).write_text(json.dumps(record))
        return publication_of(self.server.url, self.merged, scenario, digest_of(labels))

    def publish(self, scenario, labels):
        return publish_to(self.server, self.merge(scenario, labels), self.staging, scenario)

    def labels(self, scenario):
        return self.server.read_file(scenario.repo_id, DATA, scenario.target.branch).decode()[5:]

    def head(self, scenario):
        return self.server.commits(scenario.repo_id, scenario.target.branch)[0].sha


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "sleep", lambda seconds: None)
    with HubServer() as server:
        yield World(server, tmp_path)


SETTINGS_CHANGED_BACK = {"in place": IN_PLACE, "a new repository": NEW, "another branch": BRANCH}


@pytest.mark.parametrize("name", SETTINGS_CHANGED_BACK)
def test_a_merge_that_another_replaced_is_published_again(world, name):
    scenario = SETTINGS_CHANGED_BACK[name]
    set_up(world.server, scenario)
    for labels in ("one", "two", "one"):
        published = world.publish(scenario, labels)
        assert not published.is_unchanged
        assert world.labels(scenario) == labels
        assert world.head(scenario) == published.commit
        if scenario.target.branch == "main":
            assert world.server.repo(scenario.repo_id).tags == {"v3.0": published.commit}
    assert world.publish(scenario, "one").is_unchanged


def test_a_pull_request_of_a_merge_that_another_replaced_is_opened_again(world):
    set_up(world.server, REQUEST)
    repo = world.server.repo("me/source")
    for number, labels in enumerate(("one", "two"), 1):
        world.publish(REQUEST, labels)
        repo.pulls[number].description = repo.commits[repo.pull_heads[number]].message
        repo.merge(number, "me")
    published = world.publish(REQUEST, "one")
    assert published.pull_request.endswith("/discussions/3")


def test_a_revert_on_the_hub_stays_until_there_is_another_merge(world):
    set_up(world.server, NEW)
    world.publish(NEW, "one")
    before = world.server.files("me/output")
    world.publish(NEW, "two")
    reverted = world.server.append_commit("me/output", before, "Revert").sha
    assert world.publish(NEW, "two").is_unchanged
    assert world.head(NEW) == reverted
    world.publish(NEW, "three")
    assert world.labels(NEW) == "three"


def test_a_revert_of_the_first_merge_gives_way_to_the_next_one(world):
    set_up(world.server, NEW)
    world.publish(NEW, "one")
    paths = world.server.files("me/output").keys() - {".gitattributes"}
    world.server.append_commit("me/output", dict.fromkeys(paths), "Revert")
    world.publish(NEW, "two")
    assert world.labels(NEW) == "two"


def test_a_revert_by_two_merges_gives_way_to_the_next_one(world):
    set_up(world.server, NEW)
    world.publish(NEW, "one")
    before = world.server.files("me/output")
    world.publish(NEW, "two")
    world.publish(NEW, "three")
    world.server.append_commit("me/output", before, "Revert")
    world.publish(NEW, "four")
    assert world.labels(NEW) == "four"


def test_a_pull_request_that_was_taken_in_under_another_message_gives_way_to_the_next_one(world):
    scenario = Scenario(target=HubTarget(pull_request=True))
    set_up(world.server, scenario)
    world.publish(NEW, "one")
    world.publish(scenario, "two")
    repo = world.server.repo("me/output")
    repo.pulls[1].description = "Looks good"
    repo.merge(1, "me")
    assert world.labels(scenario) == "two"
    published = world.publish(scenario, "three")
    assert world.server.read_file("me/output", DATA, published.commit) == b"PAR1 three"


def test_a_commit_whose_answer_was_lost_is_found_below_another_merge(world, monkeypatch):
    set_up(world.server, NEW)
    other = HubRepository("me/output", DEFAULT_TOKEN, world.server.url)

    def publish_another(_seconds):
        if len(world.server.commits("me/output")) == 2:
            other.api.create_commit(
                "me/output",
                [CommitOperationAdd("data/chunk-000/more.txt", b"more")],
                repo_type="dataset",
                commit_message=commit_title(digest_of("two")),
                commit_description=commit_body(digest_of("two"), PROVENANCE),
            )

    monkeypatch.setattr(calls, "sleep", publish_another)
    world.server.faults.add(Fault("lost"), When(kind="commit"))
    published = world.publish(NEW, "one")
    assert [commit.sha for commit in world.server.commits("me/output")][1] == published.commit


CORRECTIONS = {
    "new episodes": {"data/chunk-000/file-009.parquet": b"PAR1 nine"},
    "labels by hand": {DATA: b"PAR1 by hand"},
    "a file deleted": {min(VIDEOS): None},
}
MEANWHILE = r"another run published [0-9a-f]{40} meanwhile; run again"
PLACES = {"another repository": NEW, "another branch": BRANCH, "a branch elsewhere": FOREIGN_BRANCH}


@pytest.mark.parametrize("changed", CORRECTIONS)
@pytest.mark.parametrize("name", PLACES)
def test_what_others_pushed_to_the_output_since_our_commit_is_not_overwritten(world, name, changed):
    scenario, pushed = PLACES[name], CORRECTIONS[changed]
    set_up(world.server, scenario)
    world.publish(scenario, "one")
    branch = scenario.target.branch
    theirs = world.server.append_commit(scenario.repo_id, pushed, branch=branch).sha
    with pytest.raises(OutputMovedError, match=rf"'{min(pushed)}'.*would be lost"):
        world.publish(scenario, "two")
    assert world.head(scenario) == theirs


@pytest.mark.parametrize("name", PLACES)
def test_rows_of_a_run_that_published_since_the_merge_read_the_output_are_not_lost(world, name):
    scenario = PLACES[name]
    set_up(world.server, scenario)
    if name == "another repository":
        late = dataclasses.replace(world.merge(scenario, "first"), base_commit="")
        world.publish(scenario, "meanwhile")
        with pytest.raises(
            OutputMovedError, match=r"another run published [0-9a-f]{40} meanwhile; run again"
        ):
            publish_to(world.server, late, world.staging, scenario)
    world.publish(scenario, "one")
    seen = world.head(scenario)
    late = dataclasses.replace(world.merge(scenario, "late"), base_commit=seen)
    world.publish(scenario, "two")
    with pytest.raises(OutputMovedError, match=MEANWHILE):
        publish_to(world.server, late, world.staging, scenario)
    assert world.labels(scenario) == "two"
    again = dataclasses.replace(world.merge(scenario, "late"), base_commit=world.head(scenario))
    publish_to(world.server, again, world.staging, scenario)
    assert world.labels(scenario) == "late"


def test_a_new_branch_is_taken_as_it_begins_though_the_source_was_annotated_in_place(world):
    set_up(world.server, IN_PLACE)
    world.publish(IN_PLACE, "one")
    world.server.append_commit("me/source", {"data/chunk-000/file-002.parquet": b"PAR1 two"})
    world.publish(BRANCH, "two")
    assert world.labels(BRANCH) == "two"


@pytest.mark.parametrize("is_ours", [True, False], ids=["by our commit", "by a squashed one"])
def test_a_dataset_that_was_annotated_in_place_is_no_output_of_another(world, is_ours):
    set_up(world.server, IN_PLACE)
    publication = world.merge(IN_PLACE, "one")
    if is_ours:
        publish_to(world.server, publication, world.staging, IN_PLACE)
    else:
        changed = {name: (world.merged / name).read_bytes() for name in (DATA, RECORD_NAME)}
        world.server.append_commit("me/source", changed)
    head = world.head(IN_PLACE)
    files = {path: file for path, file in publication.files.items() if file.local is not None}
    another = dataclasses.replace(
        publication, source=None, files=files, is_in_place=False, merge_digest=digest_of("another")
    )
    with pytest.raises(OutputError, match="annotated in place"):
        publish_to(world.server, another, world.staging, IN_PLACE)
    assert world.head(IN_PLACE) == head


INCOMPLETE = {
    "main": NEW,
    "another branch": BRANCH,
    "in place": IN_PLACE,
    "a pull request": REQUEST,
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_a_commit_that_lacks_a_file_is_made_good_by_one_on_top(world, name, monkeypatch):
    scenario = INCOMPLETE[name]
    set_up(world.server, scenario)
    publication = world.merge(scenario, "one")
    found = {path: file for path, file in publication.files.items() if path != DATA}

    def without_data(desired, present, *rest, **options):
        plan = plan_commit(found, present, *rest, **options)
        return dataclasses.replace(plan, deletions=())

    with monkeypatch.context() as patch:
        patch.setattr("annotationrun_worker.hub.push.plan_commit", without_data)
        with pytest.raises(OutputError, match=rf"'{DATA}'.*run again"):
            publish_to(world.server, publication, world.staging, scenario)
    published = publish_to(world.server, publication, world.staging, scenario)
    assert world.server.read_file(scenario.repo_id, DATA, published.commit) == b"PAR1 one"
    again = publish_to(world.server, publication, world.staging, scenario)
    assert (again.is_unchanged, again.commit) == (True, published.commit)
    if name in {"main", "in place"}:
        assert world.server.repo(scenario.repo_id).tags == {"v3.0": published.commit}
        assert journal_is_empty(world.staging)


def test_an_incomplete_commit_that_was_reverted_is_made_again(world, monkeypatch):
    set_up(world.server, IN_PLACE)
    publication = world.merge(IN_PLACE, "one")
    found = {path: file for path, file in publication.files.items() if path != DATA}
    with monkeypatch.context() as patch:
        patch.setattr(
            "annotationrun_worker.hub.push.plan_commit",
            lambda desired, *rest, **options: plan_commit(found, *rest, **options),
        )
        with pytest.raises(OutputError, match=rf"'{DATA}'.*run again"):
            publish_to(world.server, publication, world.staging, IN_PLACE)
    world.server.append_commit("me/source", {**SOURCE_FILES, RECORD_NAME: None}, "Revert")
    published = world.publish(IN_PLACE, "one")
    assert world.labels(IN_PLACE) == "one"
    assert world.server.repo("me/source").tags == {"v3.0": published.commit}


def test_the_same_merge_in_other_bytes_makes_no_second_commit(world):
    """Another version of a library wrote them."""
    set_up(world.server, NEW)
    first = world.publish(NEW, "one")
    world.merge(NEW, "one")
    (world.merged / DATA).write_bytes(b"PAR1 one, in other bytes")
    publication = publication_of(world.server.url, world.merged, NEW, digest_of("one"))
    again = publish_to(world.server, publication, world.staging, NEW)
    assert (again.is_unchanged, again.commit) == (True, first.commit)


def test_the_publish_of_somebody_else_that_is_under_way_keeps_its_note(world):
    set_up(world.server, NEW)
    journal = PublishJournal(StagingStore(world.staging))
    under_way = [
        Intent(digest_of("another"), "me/output", "main", "v3.0"),
        Intent(digest_of("one"), "me/elsewhere", "main", "v3.0"),
        Intent(digest_of("one"), "me/output", "annotated", "v3.0"),
    ]
    for intent in under_way:
        journal.write(intent)
    world.publish(NEW, "one")
    assert [journal.read(intent) for intent in under_way] == under_way


def test_a_tag_that_moved_to_a_newer_commit_meanwhile_is_not_moved_back(world, monkeypatch):
    set_up(world.server, IN_PLACE)

    def publish_another(point):
        if point is FaultPoint.AFTER_HUB_COMMIT:
            later = world.server.append_commit("me/source", {"LICENSE": b"a licence"}).sha
            world.server.repo("me/source").tags["v3.0"] = later

    monkeypatch.setattr(fault_points, "listener", publish_another)
    published = world.publish(IN_PLACE, "one")
    head = world.head(IN_PLACE)
    assert head != published.commit
    assert world.server.repo("me/source").tags == {"v3.0": head}


REFUSALS = {
    "repo_create": (NEW, 402),
    "branch_create": (BRANCH, 400),
    "commits": (IN_PLACE, 422),
    "refs": (IN_PLACE, 400),
    "tag_create": (IN_PLACE, 422),
    "tag_delete": (IN_PLACE, 409),
    "discussions": (REQUEST, 400),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_of_the_hub_is_told(world, kind):
    scenario, status = REFUSALS[kind]
    set_up(world.server, scenario)
    publication = world.merge(scenario, "one")
    world.server.faults.add(Fault("status", status), When(kind=kind), times=None)
    with pytest.raises(OutputError, match=r"me/(source|output).*the Hub refuses it: .*On purpose"):
        publish_to(world.server, publication, world.staging, scenario)
