"""The version tag, moved with the real client on a Hub: to the merge's commit, and never back."""

from collections.abc import Iterator

import pytest
from huggingface_hub import close_session
from tests.support.hub_server.server import DEFAULT_TOKEN, HubServer

from annotationrun_worker.hub import client as calls
from annotationrun_worker.hub.publish import TagMove, bridge_of, move_tag, read_tags
from annotationrun_worker.hub.repository import HubRepository

REPO, TAG = "me/output", "v3.0"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A repository of three commits."""
    monkeypatch.setattr(calls, "sleep", lambda seconds: None)
    with HubServer() as server:
        server.add_repo(REPO, {"meta/info.json": b"0"})
        for number in (b"1", b"2"):
            server.append_commit(REPO, {"meta/info.json": number})
        yield server
        close_session()


@pytest.fixture
def repository(hub: HubServer) -> HubRepository:
    return HubRepository(REPO, token=DEFAULT_TOKEN, endpoint=hub.url)


def shas(hub: HubServer) -> list[str]:
    """From the oldest commit to the newest."""
    return [commit.sha for commit in reversed(hub.commits(REPO))]


def test_a_tag_that_is_not_there_is_made_at_the_merges_commit(hub, repository):
    first, second, *_ = shas(hub)
    assert move_tag(repository, TagMove(TAG, second)) == 0.0
    assert read_tags(repository) == {TAG: second}
    assert first != second


def test_a_tag_goes_to_the_merges_commit_though_the_branch_is_further(hub, repository):
    first, second, *_, last = shas(hub)
    hub.repo(REPO).tags[TAG] = first
    assert move_tag(repository, TagMove(TAG, second)) > 0.0
    assert read_tags(repository) == {TAG: second}
    assert last != second


def test_a_tag_of_a_later_publish_is_not_pulled_back(hub, repository):
    *_, second, last = shas(hub)
    hub.repo(REPO).tags[TAG] = last
    move_tag(repository, TagMove(TAG, second, newer=(last,)))
    assert read_tags(repository) == {TAG: last}


@pytest.mark.parametrize("bridge_at", [0, 1], ids=["at the old commit", "at the new one"])
def test_what_a_killed_move_left_is_completed_and_nothing_of_it_stays(hub, repository, bridge_at):
    """Killed between the two: the tag names nothing, its bridge a commit."""
    commits = shas(hub)
    hub.repo(REPO).tags[bridge_of(TAG)] = commits[bridge_at]
    move_tag(repository, TagMove(TAG, commits[1]))
    assert read_tags(repository) == {TAG: commits[1]}


def test_other_tags_stay_where_they_are(hub, repository):
    first, second, *_ = shas(hub)
    hub.repo(REPO).tags.update({TAG: first, "v2.1": first, "mine": second})
    move_tag(repository, TagMove(TAG, second))
    assert read_tags(repository) == {TAG: second, "v2.1": first, "mine": second}
