"""Runs that meet bad input: what they say, ask and leave behind, and the table that the tests print."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.annotation import REFERENCE, read_frames, run_command, write_manifest
from tests.support.openai_server import Reply, Script, scripted_server

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.language.validate import validate_dataset

MODULES: dict[str, Any] = {"vqa": {"questionTypes": ["count"], "emissionHz": 0.1}}
"""One question every ten seconds, to each of the two cameras."""
REQUESTS = {0: 2, 3: 8, 5: 8}
"""By episode of the reference dataset, with these modules."""
FEW_ATTEMPTS = {"episodeAttempts": 1}
REPAIRED: dict[str, Any] = {"retryToken": "repaired"}
"""What was given up is tried again."""

_OURS = {"manifest.yaml", "output.staging", "dataset", "disk"}
"""What a case's folder holds; a run that failed leaves nothing else, be it hidden."""


def count_blocks(number: int, body: dict[str, Any]) -> Reply:
    """A model that counts one block on every picture."""
    return Reply(json.dumps({"question": "How many blocks?", "answer": {"label": "block", "count": 1}}))


@dataclass(frozen=True)
class Case:
    """A bad input, and what has to come of it."""

    name: str
    exit_code: ExitCode
    says: Sequence[str] = ()
    """Patterns that the message holds, each."""


@dataclass(frozen=True)
class Outcome:
    """What one run gave."""

    exit_code: int
    stdout: str
    stderr: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Of the requests that the server got."""

    @property
    def asked(self) -> int:
        return len(self.bodies)

    @property
    def message(self) -> str:
        """What the command says at its end, without what was logged before."""
        return "annotationrun: " + self.stderr.partition("annotationrun: ")[2]


@dataclass
class Bench:
    """The folder of one case, and the runs made in it."""

    folder: Path
    dataset: Path = REFERENCE
    episodes: str = "0,5"
    modules: dict[str, Any] = field(default_factory=lambda: MODULES)
    output: Path = field(init=False)
    staging: Path = field(init=False)

    def __post_init__(self) -> None:
        self.output, self.staging = self.folder / "output", self.folder / "output.staging"

    def copy_dataset(self) -> Path:
        """Work on a copy that may be damaged."""
        self.dataset = self.folder / "dataset"
        shutil.copytree(REFERENCE, self.dataset)
        return self.dataset

    def stage(self, staged: Path) -> None:
        """Begin with what an earlier run staged."""
        shutil.copytree(staged, self.staging)

    def staged(self) -> dict[str, bytes]:
        """Every staged object by its path."""
        files = (path for path in self.staging.rglob("*") if path.is_file())
        return {str(path.relative_to(self.staging)): path.read_bytes() for path in files}

    def run(
        self,
        script: Script = count_blocks,
        models: tuple[str, ...] | Reply = ("demo-vlm",),
        arguments: Sequence[str | Path] = (),
        may_read_all: bool = True,
        **spec: Any,
    ) -> Outcome:
        """`annotationrun run` against a server of its own."""
        modules = spec.pop("modules", self.modules)
        with scripted_server(script, models) as server:
            serving = {"mode": "External", "endpoints": [server.base_url]}
            model = {"id": "demo-vlm", "serving": serving, **spec.pop("model", {})}
            places = {"source": {"episodes": self.episodes}, "output": {"path": str(self.output)}}
            spec = {**places, "workers": FEW_ATTEMPTS, "model": model, **spec}
            manifest = write_manifest(self.folder, self.dataset, server.base_url, modules, **spec)
            run = run_command if may_read_all else run_without_roots_sight
            done = run("run", "-f", manifest, "--staging", self.staging, *arguments)
            return outcome(done, server.bodies)

    def leftovers(self) -> list[str]:
        """What a failed run left in the folder, or beside the output."""
        found = [*self.folder.iterdir(), *self.output.parent.iterdir()]
        return sorted({path.name for path in found} - _OURS)


def outcome(done: subprocess.CompletedProcess[str], bodies: list[dict[str, Any]] | None = None) -> Outcome:
    return Outcome(done.returncode, done.stdout, done.stderr, bodies or [])


def run_without_roots_sight(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`annotationrun ARGUMENTS` by a user whom file modes bind: root without the right to read everything."""
    command = [
        *("setpriv", "--bounding-set", "-dac_override,-dac_read_search"),
        *(sys.executable, "-m", "annotationrun_worker", *map(str, arguments)),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def check_failure(case: Case, bad: Outcome, bench: Bench) -> None:
    """The exit code, the words, and nothing half written."""
    everything = bad.stderr + bad.stdout
    assert bad.exit_code == case.exit_code, everything
    assert "Traceback" not in everything
    for part in case.says:
        assert re.search(part, bad.message), f"{part!r} is not in: {bad.stderr}"
    assert not bench.output.exists()
    assert bench.leftovers() == []


def check_success(good: Outcome, bench: Bench) -> None:
    """The output is there, valid, and holds rows of every selected episode."""
    assert good.exit_code == ExitCode.OK, good.stderr + good.stdout
    assert "Traceback" not in good.stderr
    assert validate_dataset(bench.output) == []
    episodes = read_frames(bench.output)
    for number in map(int, bench.episodes.split(",")):
        assert any(episodes[number].events), f"episode {number} has no rows"


def message_lines(bad: Outcome) -> list[str]:
    """The first two lines of the message; of a run that worked, its summary."""
    if bad.exit_code == ExitCode.OK:
        return [line for line in bad.stdout.splitlines() if "results made" in line][:1]
    return [line.strip() for line in bad.message.splitlines()[:2]]
