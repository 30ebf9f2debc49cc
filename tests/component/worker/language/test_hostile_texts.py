"""Words of a dataset that would move a terminal's cursor, forge a line of a log, or pass for markup."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.annotated_dataset import (
    DataFile,
    annotate_by_hand,
    edit_language,
    event_row,
    persistent_row,
)
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.openai_server import Reply, scripted_server

from annotationrun_api.exit_codes import ExitCode

BELL, CLEAR, FORGED = "\x07", "\x1b[2J", "annotationrun: all is well"
HOSTILE = f"[/foo][bold]{CLEAR}{BELL}\u202e\nERROR {FORGED}\r"
"""Would close markup that was never opened, clear the screen, turn what follows, and write its own line."""

_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029]")


def check_plain(text: str) -> None:
    """No line begins with the forged one, and nothing is there that a terminal obeys."""
    found = _COMMANDS.search(text)
    assert found is None, f"{found!r} in {text[max(0, (found.start() if found else 0) - 80) :][:200]!r}"
    assert not any(line.startswith((f"ERROR {FORGED}", FORGED)) for line in text.splitlines())


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Annotated, with such words in a task, a subtask, a style of others and a question."""
    root = annotate_by_hand(REFERENCE, tmp_path / "dataset")

    def edit(file: DataFile) -> None:
        seconds = file.timestamps[0]
        for frame, index in enumerate(file.episodes):
            if index == file.episodes[0]:
                file.persistent[frame].append(persistent_row("memory", seconds, HOSTILE))
                file.persistent[frame].append(persistent_row(HOSTILE, seconds, HOSTILE))
        file.events[0].append(event_row("reasoning", "assistant", HOSTILE))

    edit_language(root, edit)
    path = root / "meta/tasks.parquet"
    table = pq.read_table(path)
    name = next(name for name in table.column_names if pa.types.is_string(table.schema.field(name).type))
    place = table.schema.get_field_index(name)
    texts = [text + HOSTILE for text in table.column(name).to_pylist()]
    pq.write_table(table.set_column(place, table.schema.field(name), pa.array(texts)), path)
    return root


@pytest.mark.parametrize("arguments", [(), ("--episode", "0")], ids=["counts", "timeline"])
def test_show_shows_them_escaped(arguments: tuple[str, ...], dataset: Path) -> None:
    done = run_command("show", dataset, *arguments)
    assert done.returncode == ExitCode.OK, done.stderr
    check_plain(done.stdout + done.stderr)
    if arguments:
        assert r"\x1b[2J\x07\u202e" in done.stdout
        assert "[/foo][bold]" in done.stdout


def test_validate_and_drop_show_them_escaped(dataset: Path) -> None:
    done = run_command("validate", dataset)
    assert done.returncode in {ExitCode.OK, ExitCode.DATASET}
    check_plain(done.stdout + done.stderr)
    dropped = run_command("drop", dataset, "--module", "vqa", "--overwrite")
    assert "Traceback" not in dropped.stderr
    check_plain(dropped.stdout + dropped.stderr)


def test_a_run_and_a_plan_show_what_a_server_and_a_dataset_say_escaped(dataset: Path, tmp_path: Path) -> None:
    modules: dict[str, Any] = {"vqa": {"questionTypes": ["count"], "emissionHz": 0.1}}
    spec: dict[str, Any] = {"source": {"episodes": "0"}, "workers": {"episodeAttempts": 1}}

    def script(number: int, body: dict[str, Any]) -> Reply:
        return Reply(json.dumps({"question": HOSTILE, "answer": HOSTILE}))

    with scripted_server(script, models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, dataset, server.base_url, modules, **spec)
        for command in ("plan", "run"):
            done = run_command(command, "-f", manifest)
            assert "Traceback" not in done.stderr
            check_plain(done.stdout + done.stderr)
        assert server.bodies


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{CLEAR}.json", "has line ends or control characters"),
        (f"x\n{FORGED}.json", "has line ends or control characters"),
        ("x\u2028.json", "has line ends or control characters"),
        ("x\u202e.json", "is a link out of the dataset"),
        ("x\udcff.json", "is a link out of the dataset"),
    ],
)
def test_names_of_files_are_shown_escaped(name: str, said: str, dataset: Path) -> None:
    (dataset / "meta" / name).symlink_to("/etc/passwd")
    done = run_command("show", dataset)
    assert done.returncode == ExitCode.DATASET
    assert said in done.stderr
    check_plain(done.stdout + done.stderr)
