"""LeRobot as judge over annotated datasets; runs in the environment that environment.sh makes.

    python judge.py DATASET [DATASET ...] --report FILE.json [--plan-off]

What LeRobot has code for is judged by that code: its loader, renderer, collate function, staging validator
and the row checks of its writer. What its loader lets pass in silence although the format forbids it is read
from the files. The report holds per dataset the errors, and counts of the rows and of the rendered samples:

    {"DATASET": {"errors": [], "warnings": [], "rows": {"subtask": 3}, "rendered": {"vqa": 4}, "seconds": 1}}

Exit status: 0 no error, 1 errors in at least one dataset, 2 bad arguments. `--plan-off` exempts LeRobot's
message on interjections without a plan row, for runs that emit no plan.
"""

# ruff: noqa: E402 - see the comment above os.environ
import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Read by the libraries when they are imported. Nothing may come from a hub, and no cache of an earlier run
# may answer: `datasets` recognises a file by its path and times, not by its content.
_SCRATCH = tempfile.TemporaryDirectory(prefix="lerobot-judge-")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": _SCRATCH.name,
    "HF_DATASETS_CACHE": f"{_SCRATCH.name}/datasets",
    "HF_LEROBOT_HOME": f"{_SCRATCH.name}/lerobot",
}

import torch

# A neighbour, found because python puts the script's folder first on its path. Not `tests.interop`: a package
# that LeRobot depends on installs a top-level package `tests`, which hides ours.
from judge_rows import Episode, Row, file_errors, read_episodes, row_errors, staging_report, tool_errors
from lerobot.configs.recipe import TrainingRecipe
from lerobot.datasets.language import LANGUAGE_COLUMNS
from lerobot.datasets.language_render import render_sample
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.collate import lerobot_collate_fn

PLAN_UPDATE_MESSAGE = "has no co-timestamped plan update"
BATCH_SIZE = 8
NO_CAMERA = "none"
"""Stands in recipes for datasets without cameras, whose rows name none."""


@dataclass(slots=True)
class Verdict:
    """What was found in one dataset."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    rendered: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def load(root: Path) -> LeRobotDataset:
    """Load through LeRobot, from the folder alone."""
    return LeRobotDataset("judged/dataset", root=root)


def camera_keys(dataset: LeRobotDataset) -> tuple[str, ...]:
    """The colour cameras."""
    return tuple(key for key in dataset.meta.camera_keys if key not in dataset.meta.depth_keys)


def first_middle_last(dataset: LeRobotDataset) -> list[int]:
    """Dataset-wide indices of the first, a middle and the last frame of each episode."""
    picked: list[int] = []
    for episode in dataset.meta.episodes:
        start, stop = episode["dataset_from_index"], episode["dataset_to_index"]
        picked += sorted({start, (start + stop) // 2, stop - 1})
    return picked


def item_errors(dataset: LeRobotDataset, episodes: list[Episode]) -> Iterator[str]:
    """Do the items that LeRobot gives hold the rows of the files, and a picture of every camera?"""
    expected_frames = sum(len(episode.timestamps) for episode in episodes)
    if (len(dataset), dataset.num_episodes) != (expected_frames, len(episodes)):
        yield (
            f"loaded {len(dataset)} frames of {dataset.num_episodes} episodes, "
            f"the files hold {expected_frames} of {len(episodes)}"
        )
    if not dataset.meta.has_language_columns:
        yield "LeRobot sees no language columns in the metadata"
    for index in first_middle_last(dataset):
        item = dataset[index]
        episode = episodes[int(item["episode_index"])]
        frame = int(item["frame_index"])
        where = f"ep={episode.index} frame={frame}"
        for column, rows in zip(
            LANGUAGE_COLUMNS, (episode.persistent[frame], episode.events[frame]), strict=True
        ):
            if item.get(column) != rows:
                yield f"{where}: loaded {column} is {item.get(column)!r}, the file has {rows!r}"
        for camera in camera_keys(dataset):
            height, width, channels = dataset.meta.features[camera]["shape"]
            if item[camera].shape != (channels, height, width):
                yield f"{where}: {camera} has shape {tuple(item[camera].shape)}"


def recipe(camera: str, user: str, assistant: Row) -> TrainingRecipe:
    """A recipe of one question and one answer that sees the vqa rows of one camera.

    The camera is bound in every recipe: LeRobot 0.6.1 resolves all default bindings, and on a frame with vqa
    rows of two cameras the default ones are ambiguous whatever the recipe asks for.
    """
    bindings = {
        "vqa": f"emitted_at(t, style=vqa, role=assistant, camera={camera})",
        "vqa_query": f"emitted_at(t, style=vqa, role=user, camera={camera})",
    }
    target = {"role": "assistant", "stream": "high_level", "target": True, **assistant}
    question = {"role": "user", "stream": "high_level", "content": user}
    return TrainingRecipe.from_dict({"messages": [question, target], "bindings": bindings})


def render_errors(dataset: LeRobotDataset, episodes: list[Episode], rendered: Counter[str]) -> Iterator[str]:
    """Render the picked frames and every frame with events, and compare with the rows of the files."""
    for episode, meta in zip(episodes, dataset.meta.episodes, strict=True):
        count = len(episode.timestamps)
        frames = {0, count // 2, count - 1} | {frame for frame, rows in enumerate(episode.events) if rows}
        for frame in sorted(frames):
            item = dataset.hf_dataset[meta["dataset_from_index"] + frame]
            task = dataset.meta.tasks.iloc[int(item["task_index"])].name
            for camera in camera_keys(dataset) or (NO_CAMERA,):
                for error in _frame_render_errors(item, task, camera, rendered):
                    yield f"ep={episode.index} frame={frame} camera={camera}: {error}"


def _frame_render_errors(item: Row, task: str, camera: str, rendered: Counter[str]) -> Iterator[str]:
    persistent, events = item[LANGUAGE_COLUMNS[0]], item[LANGUAGE_COLUMNS[1]]
    t, index = item["timestamp"].item(), item["index"].item()
    tasks = {row["content"] for row in persistent if row["style"] == "task_aug"} or {task}

    def render(user: str, assistant: Row) -> list[Row] | None:
        sample = render_sample(
            recipe=recipe(camera, user, assistant), persistent=persistent, events=events,
            t=t, sample_idx=index, dataset_ctx={"task": task},
        )  # fmt: skip
        return None if sample is None else sample["messages"]

    messages = render("${task}", {"content": "${task}"})
    if not messages or messages[-1]["content"] not in tasks:
        yield f"rendered task is {messages!r}, expected one of {sorted(tasks)}"
    rendered["task_aug"] += any(row["style"] == "task_aug" for row in persistent)
    for style in ("subtask", "plan", "memory"):
        active = [row["content"] for row in persistent if row["style"] == style and row["timestamp"] <= t]
        messages = render("${task}", {"content": f"${{{style}}}", "if_present": style})
        got = messages and messages[-1]["content"]
        if got != (active[-1] if active else None):
            yield f"rendered {style} is {got!r}, expected {active[-1] if active else None!r}"
        rendered[style] += bool(messages)
        if style == "subtask" and not active and any(row["style"] == style for row in persistent):
            yield f"no subtask is active at t={t}"
    yield from _event_render_errors(events, camera, render, rendered)


def _event_render_errors(
    events: list[Row], camera: str, render: Callable[[str, Row], list[Row] | None], rendered: Counter[str]
) -> Iterator[str]:
    of_camera = [row for row in events if row["style"] == "vqa" and row["camera"] == camera]
    questions = [row["content"] for row in of_camera if row["role"] == "user"]
    messages = render("${vqa_query}", {"content": "${vqa}", "if_present": "vqa"})
    if [message["content"] for message in (messages or [])[:1]] != questions:
        yield f"rendered vqa is {messages!r}, expected the question {questions!r}"
    rendered["vqa"] += bool(messages)
    calls = [row["tool_calls"] for row in events if row["style"] is None]
    messages = render("${interjection}", {"tool_calls_from": "speech", "if_present": "speech"})
    if [message.get("tool_calls") for message in (messages or [])[-1:]] != calls:
        yield f"rendered speech is {messages!r}, expected the tool calls {calls!r}"
    rendered["speech"] += bool(messages)
    rendered["interjection"] += bool(messages and messages[0]["content"])


class RenderedSamples(torch.utils.data.Dataset[Row]):
    """Items with the language columns replaced by rendered messages, as LeRobot's training step does it."""

    def __init__(self, dataset: LeRobotDataset, indices: list[int]) -> None:
        self.dataset = dataset
        self.indices = indices
        self.recipe = recipe((*camera_keys(dataset), NO_CAMERA)[0], "${task}", {"content": "Now: ${subtask}"})

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Row:
        item = dict(self.dataset[self.indices[place]])
        persistent, events = (item.pop(column) for column in LANGUAGE_COLUMNS)
        t, index = item["timestamp"].item(), item["index"].item()
        sample = render_sample(
            recipe=self.recipe, persistent=persistent, events=events, t=t, sample_idx=index
        )
        return item | (sample or {})


def batch_errors(dataset: LeRobotDataset) -> Iterator[str]:
    """Draw one batch of plain items and one of rendered samples through LeRobot's collate function."""
    picked = first_middle_last(dataset)
    indices = picked[:: math.ceil(len(picked) / BATCH_SIZE)]
    sources = (torch.utils.data.Subset(dataset, indices), RenderedSamples(dataset, indices))
    for source in sources:
        loader = torch.utils.data.DataLoader(source, batch_size=len(indices), collate_fn=lerobot_collate_fn)
        batch = next(iter(loader))
        for camera in camera_keys(dataset):
            if batch[camera].shape[0] != len(indices) or batch[camera].dtype != torch.float32:
                yield f"batch: {camera} has shape {tuple(batch[camera].shape)} and {batch[camera].dtype}"
        if batch["index"].tolist() != indices or len(batch["task"]) != len(indices):
            yield f"batch: holds the frames {batch['index'].tolist()}, expected {indices}"
    if len(batch["messages"]) != len(indices):
        yield f"batch: {len(batch['messages'])} rendered samples, expected {len(indices)}"


def judge(root: Path, *, plan_off: bool) -> Verdict:
    """Judge one dataset; a raise of LeRobot, of whatever class, is an error of the dataset."""
    verdict = Verdict()
    started = time.monotonic()

    def attempt(step: str, check: Callable[[], Any]) -> Any:
        try:
            return check()
        except Exception as error:  # noqa: BLE001 - LeRobot's loader raises anything, and each is a rejection
            verdict.errors.append(f"{step}: {_with_causes(error)}")
            return None

    def collect(step: str, errors: Callable[[], Iterator[str]]) -> None:
        # One by one: what was found before a raise is kept.
        attempt(step, lambda: [verdict.errors.append(f"{step}: {error}") for error in errors()])

    collect("files", lambda: file_errors(root))
    episodes = attempt("read rows", lambda: read_episodes(root))
    dataset = attempt("load", lambda: load(root))
    collect("tools", lambda: tool_errors(root, episodes or []))
    for episode in episodes or []:
        verdict.rows.update(row["style"] or "speech" for rows in episode.events for row in rows)
        verdict.rows.update(row["style"] or "none" for row in episode.persistent[0])
        collect("rows", lambda episode=episode: row_errors(episode))
    if dataset is not None:
        collect("batch", lambda: batch_errors(dataset))
    if dataset is not None and episodes is not None:
        collect("items", lambda: item_errors(dataset, episodes))
        collect("render", lambda: render_errors(dataset, episodes, verdict.rendered))
        staging = attempt("staging", lambda: staging_report(root, episodes, camera_keys(dataset)))
        errors, verdict.warnings = staging or ([], [])
        exempt = PLAN_UPDATE_MESSAGE if plan_off else None
        verdict.errors += [f"staging: {error}" for error in errors if exempt is None or exempt not in error]
    verdict.seconds = round(time.monotonic() - started, 2)
    return verdict


def _with_causes(error: BaseException) -> str:
    # The loader asks the Hub when the folder lacks a file, and `datasets` hides what it stumbled over.
    texts = []
    link: BaseException | None = error
    while link is not None:
        texts.append(f"{type(link).__name__}: {link}")
        link = link.__cause__ or link.__context__
    return " <- ".join(texts)


def main() -> int:
    """Judge the datasets named on the command line and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", metavar="DATASET", nargs="+", type=Path, help="folder of a dataset")
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--plan-off", action="store_true", help="the run that wrote the datasets emits no plan"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {}
    for root in arguments.datasets:
        verdict = judge(root.resolve(), plan_off=arguments.plan_off)
        report[str(root)] = {
            "errors": verdict.errors, "warnings": verdict.warnings, "rows": dict(verdict.rows),
            "rendered": dict(verdict.rendered), "seconds": verdict.seconds,
        }  # fmt: skip
        print(f"{root}: {len(verdict.errors)} errors, {verdict.seconds} s", *verdict.errors[:5], sep="\n  ")
    arguments.report.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return int(any(verdict["errors"] for verdict in report.values()))


if __name__ == "__main__":
    sys.exit(main())
