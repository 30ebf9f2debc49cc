"""A tiny dataset on the Hub's test server, merged, and what is to be published of it.

As a program it publishes, and kills its own process at a fault point: POINT, URL, FOLDER, SCENARIO.
"""

import hashlib
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi
from packaging.version import InvalidVersion, Version
from tests.support.hub_server.replies import HubError
from tests.support.hub_server.server import DEFAULT_TOKEN, HubServer
from tests.support.killed_at import kill_at

from annotationrun_worker.fault_points import FaultPoint
from annotationrun_worker.hub.publication import (
    DesiredFile,
    HubSource,
    HubTarget,
    Provenance,
    Publication,
    Published,
)
from annotationrun_worker.hub.publish import publish
from annotationrun_worker.hub.repository import HubRepository
from annotationrun_worker.staging.store import StagingStore

FAULT_POINTS = (
    FaultPoint.BEFORE_HUB_COMMIT,
    FaultPoint.AFTER_HUB_COMMIT,
    FaultPoint.BETWEEN_TAGS,
    FaultPoint.AFTER_TAG,
)
"""Of a publish."""
DIGEST = hashlib.sha256(b"a merge").hexdigest()
OTHER_DIGEST = hashlib.sha256(b"another merge").hexdigest()
CARD = "---\nlicense: cc-by-4.0\ntags:\n- LeRobot\n---\n\n# Cubes\n\nTwo arms, one cube.\n"
VIDEOS = {
    f"videos/observation.images.top/chunk-000/file-{number:03}.mp4": b"video %d " % number * 40
    for number in (0, 1)
}
SOURCE_FILES = {
    "README.md": CARD.encode(),
    "meta/info.json": b'{"codebase_version": "v3.0"}',
    "meta/stats.json": b"{}",
    "meta/tasks.parquet": b"PAR1 tasks",
    "data/chunk-000/file-000.parquet": b"PAR1 zero " * 20,
    "data/chunk-000/file-001.parquet": b"PAR1 one " * 20,
    **VIDEOS,
}
CHANGED = {
    "meta/info.json": b'{"codebase_version": "v3.0", "language": true}',
    "data/chunk-000/file-000.parquet": b"PAR1 zero with language " * 20,
    "meta/annotationrun.json": b'{"mergeDigest": "..."}',
}
"""What the merge made anew."""
PROVENANCE = Provenance(
    source="me/source",
    source_commit="0" * 40,
    model="org/model",
    model_revision="1" * 40,
    config_digest="2" * 64,
    run="relabel",
    finished_at="2026-01-02T03:04:05Z",
    episodes=7,
    labelled_episodes={"vqa": 6, "plan": 5},
    failed_episodes=(3,),
    taken_away=("4 rows 'memory' of the episodes 1-2",),
    rows_by_style={"subtask": 12, "vqa": 30},
    prompt_tokens=1000,
    answer_tokens=90,
)


@dataclass(frozen=True)
class Scenario:
    """One way to publish."""

    repo_id: str = "me/output"
    target: HubTarget = field(default_factory=HubTarget)
    is_in_place: bool = False
    region: str = "us"
    """Of the output; the source is in "us"."""


SCENARIOS = {
    "in place": Scenario("me/source", is_in_place=True),
    "a new repository": Scenario(),
    "a pull request": Scenario("me/source", HubTarget(pull_request=True), is_in_place=True),
    "another storage region": Scenario(region="eu"),
}


def set_up(server: HubServer, scenario: Scenario) -> str:
    """The source as somebody left it, with its version tag; its commit."""
    with server.hub.lock:
        server.hub.repos.clear()
    commit = server.add_repo("me/source", SOURCE_FILES).sha
    server.repo("me/source").tags["v3.0"] = commit
    if scenario.region != "us":
        HfApi(endpoint=server.url, token=DEFAULT_TOKEN).create_repo(scenario.repo_id, repo_type="dataset")
        server.repo(scenario.repo_id).region = scenario.region
    server.counters.clear()
    return commit


def write_merged(folder: Path) -> Path:
    """The merged dataset as a merge without the videos leaves it on its disk."""
    for path, content in {**SOURCE_FILES, **CHANGED}.items():
        if path not in VIDEOS:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    return folder


def publication_of(
    endpoint: str, merged: Path, scenario: Scenario, digest: str = DIGEST, token: str = DEFAULT_TOKEN
) -> Publication:
    """What is to be published of the source as it is now: asks the server."""
    source = HubRepository("me/source", token, endpoint)
    commit = source.resolve("main")
    files = source.files(commit)
    desired = {path: DesiredFile(files[path].size_bytes, files[path].sha256) for path in VIDEOS}
    for path in sorted(path for path in merged.rglob("*") if path.is_file()):
        content = path.read_bytes()
        name = path.relative_to(merged).as_posix()
        desired[name] = DesiredFile(len(content), hashlib.sha256(content).hexdigest(), path)
    return Publication(
        target=scenario.target,
        merge_digest=digest,
        files=desired,
        source=HubSource(source, commit, files),
        version_tag="v3.0",
        provenance=PROVENANCE,
        is_in_place=scenario.is_in_place,
    )


def publish_to(
    server: HubServer, publication: Publication, folder: Path, scenario: Scenario, token: str = DEFAULT_TOKEN
) -> Published:
    """Publish, with a journal in `folder`."""
    return publish(HubRepository(scenario.repo_id, token, server.url), publication, StagingStore(folder))


def contents(server: HubServer, repo_id: str) -> dict[str, object]:
    """All that readers of the repository see, without SHAs: these hold the time."""
    repo = server.repo(repo_id)
    refs = {
        **{f"branch {name}": sha for name, sha in repo.branches.items()},
        **{f"tag {name}": sha for name, sha in repo.tags.items()},
        **{f"request {number}": sha for number, sha in repo.pull_heads.items()},
    }
    return {
        name: (server.files(repo_id, sha), [commit.title for commit in server.commits(repo_id, sha)])
        for name, sha in refs.items()
    }


def made_commits(server: HubServer, repo_id: str, digest: str = DIGEST) -> int:
    """Commits with the trailer of this merge, on any branch or none."""
    trailer = f"Annotationrun-Merge-Digest: {digest}"
    return sum(trailer in commit.message.splitlines() for commit in server.repo(repo_id).commits.values())


class WatchedTags(dict[str, str]):
    """The tags of a repository, and for how long they named nothing."""

    def __init__(self, tags: dict[str, str]) -> None:
        super().__init__(tags)
        self.longest_seconds = {"tag": 0.0, "version": 0.0}
        """Without ``v3.0`` itself; without any revision that LeRobot would load."""
        self._since: dict[str, float] = {}

    def __setitem__(self, tag: str, commit: str) -> None:
        super().__setitem__(tag, commit)
        self._look()

    def __delitem__(self, tag: str) -> None:
        super().__delitem__(tag)
        self._look()

    def _look(self) -> None:
        now = time.monotonic()
        for what, is_there in (("tag", "v3.0" in self), ("version", lerobot_revision(self) is not None)):
            if is_there and what in self._since:
                seconds = now - self._since.pop(what)
                self.longest_seconds[what] = max(self.longest_seconds[what], seconds)
            elif not is_there:
                self._since.setdefault(what, now)


def lerobot_revision(names: dict[str, str]) -> str | None:
    """As ``get_safe_version`` of lerobot/datasets/utils.py picks it for a LeRobot of codebase version 3.0."""
    wanted = Version("3.0")
    versions = []
    for name in names:
        try:
            versions.append(Version(name))
        except InvalidVersion:
            continue
    if wanted in versions:
        return f"v{wanted}"
    fitting = [one for one in versions if one.major == wanted.major and one.minor <= wanted.minor]
    return f"v{max(fitting)}" if fitting else None


def loadable(server: HubServer, repo_id: str) -> dict[str, bytes]:
    """The files that LeRobot would load now; empty where it finds no version."""
    revision = lerobot_revision(server.repo(repo_id).tags)
    try:
        return {} if revision is None else server.files(repo_id, revision)
    except HubError:
        return {}


def journal_is_empty(folder: Path) -> bool:
    """Whether no publish is unfinished."""
    return not list(folder.rglob("*.json"))


def clean(folder: Path) -> Path:
    """An empty folder for a journal."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


if __name__ == "__main__":
    point, url, folder, name = sys.argv[1:]
    scenario = SCENARIOS[name]
    merged = Path(folder, "merged")
    kill_at(FaultPoint[point], 1)
    publish(
        HubRepository(scenario.repo_id, DEFAULT_TOKEN, url),
        publication_of(url, merged, scenario),
        StagingStore(Path(folder, "staging")),
    )
