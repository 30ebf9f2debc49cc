"""Relabeling a dataset on the Hub: each run asks for what is new alone, and pushes one commit or none."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.annotation import run_command, write_manifest
from tests.support.hub_server.server import HubServer
from tests.support.hub_server.state import folder_contents
from tests.support.module_runs import demo_model, kind_of, text_of
from tests.support.openai_server import Reply

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.step_results import PlanResult, read_result
from annotationrun_worker.demo.answers import answer
from annotationrun_worker.demo.chat_request import parse_request
from annotationrun_worker.demo.dataset import make_demo_dataset
from annotationrun_worker.modules.base import read_prompt

SOURCE, ELSEWHERE = "me/blocks", "me/blocks_annotated"
BEFORE, AFTER = 5, 6
"""Episodes; the sixth lies in a parquet file with the fifth, and in an mp4 with the fourth and the fifth."""
MODULES = {
    "plan": {"taskRephrasings": 0, "emitMemory": False, "deriveTask": "Never"},
    "vqa": {"emissionHz": 0.1, "cameras": "Default", "questionTypes": ["bbox", "count"]},
}
ADDED = "Look twice."


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The dataset as it was, and with one episode more."""
    folder = tmp_path_factory.mktemp("datasets")
    for episodes in (BEFORE, AFTER):
        make_demo_dataset(folder / str(episodes), episodes=episodes)
    return {episodes: folder_contents(folder / str(episodes)) for episodes in (BEFORE, AFTER)}


@pytest.fixture
def hub(datasets):
    with HubServer() as server:
        server.add_repo(SOURCE, datasets[BEFORE])
        yield server


@pytest.fixture
def model():
    with demo_model(attentive) as server:
        yield server


def attentive(number, body):
    """The demo model, but to a prompt that is not ours it answers something else."""
    found = answer(parse_request(body))
    if ADDED in text_of(body):
        found = {**found, "question": f"{found['question']} {ADDED}"}
    return Reply(json.dumps(found))


class Relabeling:
    """A manifest in Git, and what each run of it asks and does."""

    def __init__(self, folder: Path, hub: HubServer, model, output: str) -> None:
        self.folder, self.hub, self.model, self.output = folder, hub, model, output
        self.staging = folder / "staging"
        self.runs = 0

    def manifest(self, modules=MODULES, **spec) -> Path:
        return write_manifest(
            self.folder, SOURCE, self.model.base_url, modules, output={"repoID": self.output}, **spec
        )

    def command(self, name: str, manifest: Path, *arguments) -> None:
        """With a cache of its own: as a pod has it."""
        self.runs += 1
        done = run_command(
            name, "-f", manifest, "--cache", self.folder / f"cache-{self.runs}", "--staging", self.staging,
            *arguments, environment=self.hub.environment,
        )  # fmt: skip
        assert done.returncode == ExitCode.OK, done.stderr
        shutil.rmtree(self.folder / f"cache-{self.runs}", ignore_errors=True)

    def asked(self, **spec) -> Counter[str]:
        """The requests of a run, by kind; in its steps, as on a cluster."""
        self.model.bodies.clear()
        self.hub.counters.clear()
        for step in ("annotate", "merge"):
            self.command(step, self.manifest(**spec))
        return Counter(map(kind_of, self.model.bodies))

    def plan(self, **spec) -> PlanResult:
        result = self.folder / "plan.json"
        result.touch()
        self.command("plan", self.manifest(**spec), "--result", result)
        return read_result(result.read_bytes(), PlanResult)

    @property
    def commits(self) -> int:
        return len(self.hub.commits(self.output))

    @property
    def pulled(self) -> set[str]:
        return {path for _, path in self.hub.counters.served}

    @property
    def pushed(self) -> set[str]:
        return {path for _, path in self.hub.counters.received}


def requests_of(folder: Path, hub: HubServer, model, episodes: str) -> Counter[str]:
    """What is asked about these episodes alone, with nothing staged."""
    folder.mkdir()
    alone = Relabeling(folder, hub, model, "me/alone")
    return alone.asked(source={"episodes": episodes})


def without_probes(asked: Counter[str]) -> Counter[str]:
    """Without what each run with a question first asks of its server."""
    return Counter({kind: count for kind, count in asked.items() if "probe" not in kind})


def language_rows(hub: HubServer, repo: str) -> dict[int, int]:
    """Rows of the language columns, by episode."""
    rows: Counter[int] = Counter()
    for path, content in hub.files(repo).items():
        if path.startswith("data/"):
            table = pq.read_table(pa.BufferReader(content))
            events = table["language_events"].to_pylist()
            for episode, of_frame in zip(table["episode_index"].to_pylist(), events, strict=True):
                rows[episode] += len(of_frame)
    return dict(rows)


@pytest.mark.parametrize("output", [SOURCE, ELSEWHERE], ids=["in place", "elsewhere"])
def test_an_episode_that_is_appended_within_the_same_files_costs_its_own_requests(
    tmp_path, hub, model, datasets, output
):
    relabeling = Relabeling(tmp_path / "relabeling", hub, model, output)
    relabeling.folder.mkdir()
    full = relabeling.asked()
    commits = relabeling.commits
    assert not relabeling.asked(), "the same manifest again"
    assert relabeling.commits == commits
    before = relabeling.plan()

    hub.append_commit(SOURCE, datasets[AFTER])
    commits = relabeling.commits
    after = relabeling.plan()
    assert (before.plan != after.plan, before.pending, after.episodes) == (True, 0, AFTER)
    appended = relabeling.asked()
    assert relabeling.commits == commits + 1
    assert {path for path in relabeling.pulled if path.endswith(".mp4")} == {
        "videos/observation.images.front/chunk-000/file-001.mp4"
    }, "the one that the episode is in, of the camera that is looked at"
    assert {path for path in relabeling.pushed if path.startswith("data/")}
    assert not {path for path in relabeling.pushed if path.endswith(".mp4")}
    rows = language_rows(hub, output)
    assert sorted(rows) == list(range(AFTER))
    assert all(rows.values())
    assert not relabeling.asked()
    assert relabeling.commits == commits + 1

    alone = requests_of(tmp_path / "alone", hub, model, str(BEFORE))
    assert without_probes(appended) == without_probes(alone)
    assert 0 < sum(appended.values()) < sum(full.values()) / 2
    print(f"full run: {dict(full)}\none episode appended: {dict(appended)}")


def test_a_changed_prompt_costs_the_requests_of_its_module_and_one_commit(tmp_path, hub, model):
    relabeling = Relabeling(tmp_path, hub, model, SOURCE)
    full = relabeling.asked()
    commits = relabeling.commits
    prompts = {"vqa_count": f"{read_prompt('vqa_count')}\n{ADDED}"}
    changed = relabeling.asked(prompts=prompts)
    assert relabeling.commits == commits + 1
    assert set(without_probes(changed)) == {"vqa_count"}
    assert changed["vqa_count"] == full["vqa_count"]
    assert {path for path in relabeling.pushed if path.startswith("data/")}
    assert not {path for path in relabeling.pushed if path.endswith(".mp4")}
    assert not relabeling.asked(prompts=prompts)
    assert relabeling.commits == commits + 1


def test_what_is_no_change_of_the_dataset_gives_the_same_plan(tmp_path, hub, model):
    """By this an operator that follows the source tells its own commits, and a rollback, from new data."""
    relabeling = Relabeling(tmp_path, hub, model, SOURCE)
    source = hub.files(SOURCE)
    first = relabeling.plan()
    assert (first.episodes, first.pending) == (BEFORE, BEFORE)
    relabeling.asked()
    ours = hub.commits(SOURCE)[0]
    hub.counters.clear()
    done = relabeling.plan()
    assert (done.plan, done.pending, done.source_commit) == (first.plan, 0, ours.sha)
    assert "meta/info.json" in relabeling.pulled
    assert {path.partition("/")[0] for path in relabeling.pulled} <= {"meta", ".gitattributes", "README.md"}

    card = hub.read_file(SOURCE, "README.md") + b"\nMoved by hand.\n"
    hub.append_commit(SOURCE, {"README.md": card})
    assert relabeling.plan().plan == first.plan

    annotated = hub.files(SOURCE)
    rollback = {path: source.get(path) for path in annotated if annotated[path] != source.get(path)}
    assert "meta/annotationrun.json" in rollback
    hub.append_commit(SOURCE, rollback, "Revert")
    reverted = relabeling.plan()
    assert (reverted.plan, reverted.pending) == (first.plan, 0)

    info = json.loads(hub.read_file(SOURCE, "meta/info.json"))
    hub.append_commit(SOURCE, {"meta/info.json": json.dumps({**info, "robot_type": "arm"}).encode()})
    assert relabeling.plan().plan != first.plan
