"""A publish with a fault at each of its requests in turn, an outage from each on, and a kill at each point.

The repository is in the end what an undisturbed publish leaves: all files, all refs; with one commit.
"""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from tests.support.hub_publication import (
    FAULT_POINTS,
    SCENARIOS,
    WatchedTags,
    clean,
    contents,
    journal_is_empty,
    loadable,
    made_commits,
    publication_of,
    publish_to,
    set_up,
    write_merged,
)
from tests.support.hub_server.faults import Fault, When, too_many_requests
from tests.support.hub_server.server import HubServer

from annotationrun_worker.errors import HubUnavailableError
from annotationrun_worker.hub import client as calls
from annotationrun_worker.hub import client as session

# The client passes files to its HTTP library in a way that is out of fashion there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

SILENCE_SECONDS = 0.4
FAULTS = {
    "503": Fault("status", 503),
    "429, ask again at once": too_many_requests(0),
    "500 after it was carried out": Fault("status", 500, is_carried_out=True),
    "hangs until the client leaves": Fault("hang"),
    "the answer is lost": Fault("lost"),
    "the transfer breaks": Fault("cut", after_bytes=5),
}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Nobody waits between two tries, and a silent server is given up soon."""
    monkeypatch.setattr(calls, "sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", SILENCE_SECONDS)
    session.use_timeouts(SILENCE_SECONDS)
    yield
    session.use_timeouts()


@pytest.fixture(scope="module")
def server():
    with HubServer() as server:
        yield server


class World:
    """One source, one merged dataset and one way to publish it, over and over."""

    def __init__(self, server, folder, scenario):
        self.server = server
        self.scenario = scenario
        self.staging = folder / "staging"
        self.merged = write_merged(folder / "merged")

    def begin(self):
        """Everything as before the first publish.

        Returns what is to be published, the watched tags, and the number of the next request.
        """
        self.server.faults.clear()
        self.server.faults.hit.clear()
        clean(self.staging)
        set_up(self.server, self.scenario)
        repo = self.server.hub.repos.get(f"datasets/{self.scenario.repo_id}")
        tags = WatchedTags({} if repo is None else repo.tags)
        if repo is not None:
            repo.tags = tags
        publication = publication_of(self.server.url, self.merged, self.scenario)
        number = 1 + max(line.number for line in self.server.counters.log)
        self.server.counters.clear()
        return publication, tags, number

    def publish(self, publication):
        return publish_to(self.server, publication, self.staging, self.scenario)

    def undisturbed(self):
        """The requests of a publish, and what it leaves."""
        publication, _, _ = self.begin()
        self.publish(publication)
        log = sorted(self.server.counters.log, key=lambda line: line.number)
        return [f"{line.method} {line.kind}" for line in log], contents(self.server, self.scenario.repo_id)

    def check(self, expected):
        assert contents(self.server, self.scenario.repo_id) == expected
        assert made_commits(self.server, self.scenario.repo_id) == 1
        assert journal_is_empty(self.staging)


def world_of(server, tmp_path, name):
    return World(server, tmp_path, SCENARIOS[name])


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_at_any_request_changes_nothing(server, tmp_path, name, fault):
    world = world_of(server, tmp_path, name)
    kinds, expected = world.undisturbed()
    assert kinds.count("POST commit") == 1
    gaps = [0.0]
    for place, kind in enumerate(kinds):
        publication, tags, number = world.begin()
        server.faults.add(FAULTS[fault], When(number=number + place))
        world.publish(publication)
        assert server.faults.hit, f"no fault at request {place}, {kind}"
        world.check(expected)
        gaps.append(tags.longest_seconds["tag"])
        assert tags.longest_seconds["version"] == 0, f"LeRobot found no version: {place}, {kind}"
    print(f"\n{name}, {fault}: {len(kinds)} requests, longest without the tag {max(gaps):.3f} s")
    assert max(gaps) < 30, "bounded by the time to a second try"


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_outage_from_any_request_on_is_made_good_by_the_next_attempt(server, tmp_path, name):
    world = world_of(server, tmp_path, name)
    kinds, expected = world.undisturbed()
    assert kinds.count("POST commit") == 1
    for place, kind in enumerate(kinds):
        publication, tags, number = world.begin()
        before = loadable(server, "me/source")
        server.faults.add(
            Fault("status", 503), lambda call, first=number + place: call.number >= first, times=None
        )
        with pytest.raises(HubUnavailableError, match="run again"):
            world.publish(publication)
        server.faults.clear()
        left = loadable(server, "me/source")
        assert left in (before, server.files("me/source")), f"neither old nor new: {place}, {kind}"
        world.publish(publication)
        world.check(expected)
        assert tags.longest_seconds["version"] == 0


@pytest.mark.parametrize("point", FAULT_POINTS, ids=lambda point: point.name)
def test_killed_and_published_again(server, tmp_path, point):
    world = world_of(server, tmp_path, "in place")
    _, expected = world.undisturbed()
    publication, tags, _ = world.begin()
    command = ["-m", "tests.support.hub_publication", point.name, server.url, str(tmp_path), "in place"]
    done = subprocess.run(
        [sys.executable, *command],
        start_new_session=True, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == -9, f"{point.value} was not reached: {done.stdout}{done.stderr}"
    assert loadable(server, "me/source"), "LeRobot finds the old or the new version"
    world.publish(publication)
    world.check(expected)
    assert tags.longest_seconds["version"] == 0
