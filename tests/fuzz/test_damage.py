"""Damage of every kind, by the hundred: documented exit codes, no traceback, no hang, little memory."""

import asyncio
import json
import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from tests.fuzz.damage import another_value, change, change_boxes, change_text, spoil
from tests.fuzz.harness import (
    COUNT,
    FIRST_SEED,
    MOST_BYTES,
    MOST_SECONDS,
    Case,
    case,
    command_here,
    meet,
    seeds,
)
from tests.support.annotation import run_command, write_manifest
from tests.support.asking import ask, asker
from tests.support.attacks import Cost, row
from tests.support.module_runs import demo_model
from tests.support.mutations import MUTATIONS, mutate
from tests.support.raw_server import completion, healthy_but, raw_server
from tests.support.tiny_dataset import FPS, HEIGHT, TOP, WIDTH, video_path, write_tiny_dataset

from annotationrun_api.errors import AnnotationRunError
from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.manifest import load_manifest
from annotationrun_worker.dataset.episodes import list_episodes
from annotationrun_worker.dataset.metadata import read_info
from annotationrun_worker.exit_status import exit_code_of
from annotationrun_worker.video.backends import make_decoder
from annotationrun_worker.video.decoder import EpisodeVideo

MODULES: dict[str, Any] = {"vqa": {"questionTypes": ["count"], "emissionHz": 1.0}}
NOBODY = "http://127.0.0.1:9/v1"
OF_A_DATASET = {
    "info.json": ("info", "info bytes", "nested"),
    "meta/episodes": ("episodes", "episodes bytes"),
    "tasks.parquet": ("tasks", "tasks bytes"),
    "data parquet": ("rows", "rows bytes"),
}


def of_a_dataset(kinds: tuple[str, ...], folder: Path) -> Iterator[Case]:
    """Files of a dataset, each met by one of the commands that read it."""
    for seed in seeds():
        place = folder / str(seed)
        shutil.copytree(folder / "dataset", place / "dataset")
        done = mutate(place / "dataset", seed, kinds)
        manifest = write_manifest(place, place / "dataset", NOBODY, MODULES)
        commands = [
            ["plan", "-f", str(manifest)],
            ["validate", str(place / "dataset")],
            ["show", str(place / "dataset")],
            ["drop", str(place / "dataset"), "--module", "vqa", "--output", str(place / "dropped")],
        ]
        yield command_here(seed, done, commands[seed % len(commands)])
        shutil.rmtree(place)


def of_videos(folder: Path) -> Iterator[Case]:
    """Boxes of an mp4 file: its packets are hashed and its frames decoded, as in a run."""
    dataset = folder / "dataset"
    path = dataset / video_path()
    content = path.read_bytes()
    summaries = list_episodes(dataset, read_info(dataset))
    with closing(make_decoder("auto")) as decoder:
        for seed in seeds():
            draw = random.Random(seed)
            changed, done = change_boxes(content, draw)
            path.unlink()
            path.write_bytes(changed)
            episode = draw.choice(summaries)
            span = episode.videos[TOP]  # type: ignore[index]
            video = EpisodeVideo(episode.index, TOP, span, episode.length, (WIDTH, HEIGHT))  # type: ignore[arg-type]
            times = span.from_timestamp_seconds + np.arange(0, episode.length, 5) / FPS

            def look(video: EpisodeVideo = video, times: NDArray[np.float64] = times) -> None:
                span = video.span
                try:
                    decoder.packet_digest(video, span.from_timestamp_seconds, span.to_timestamp_seconds)
                    pictures = decoder.frames(video, times, np.full(len(times), 0.01))
                    assert pictures.shape == (len(times), HEIGHT, WIDTH, 3)
                except AnnotationRunError as error:
                    raise SystemExit(int(exit_code_of(error))) from error

            yield case(seed, done, look)


def of_answers(folder: Path) -> Iterator[Case]:
    """Answers of a model server, with other values and other bytes."""
    sound = completion('{"colour": "red"}', prompt_tokens=10, completion_tokens=3)
    body = sound

    async def ask_all() -> list[Case]:
        nonlocal body
        found = []
        with raw_server(healthy_but("/completions", lambda exchange: exchange.answer(body))) as server:
            for seed in seeds():
                body, done = change_text(sound, random.Random(seed))
                async with asker(server.base_url, folder / f"staging-{seed}") as one:
                    outcome = (await asyncio.gather(ask(one), return_exceptions=True))[0]

                def end(outcome: object = outcome) -> None:
                    if isinstance(outcome, AnnotationRunError):
                        raise SystemExit(int(exit_code_of(outcome))) from outcome
                    if isinstance(outcome, BaseException):
                        raise outcome

                found.append(case(seed, done, end))
        return found

    yield from asyncio.run(ask_all())


def of_staging(folder: Path) -> Iterator[Case]:
    """Objects of a staging store: what is staged is planned with, merged, counted and swept."""
    paths = sorted(path for path in (folder / "staged").rglob("*") if path.is_file())
    manifest = str(folder / "manifest.yaml")
    for seed in seeds():
        draw = random.Random(seed)
        staging = folder / f"staging-{seed}"
        shutil.copytree(folder / "staged", staging)
        path = staging / draw.choice(paths).relative_to(folder / "staged")
        changed, done = change_text(path.read_bytes(), draw)
        path.write_bytes(changed)
        commands = [
            ["plan", "-f", manifest, "--staging", str(staging)],
            ["gc", str(staging), "--check"],
            ["gc", str(staging), "--unused-days", "1"],
            ["merge", "-f", manifest, "--staging", str(staging)],  # which takes longest
            ["plan", "-f", manifest, "--staging", str(staging)],
            ["gc", str(staging), "--check"],
        ]
        done = f"{path.relative_to(staging)}: {done}"
        yield command_here(seed, done, commands[seed % len(commands)])
        shutil.rmtree(staging)
        shutil.rmtree(folder / "output", ignore_errors=True)


def of_manifests(folder: Path) -> Iterator[Case]:
    """Manifests, with all that they leave to the defaults, with other values and other bytes."""
    full = load_manifest(folder / "manifest.yaml").model_dump(mode="json", by_alias=True, exclude_none=True)
    sound = yaml.safe_dump(full).encode()
    path = folder / "changed.yaml"
    for seed in seeds():
        draw = random.Random(seed)
        if draw.random() < 0.3:
            content, done = spoil(sound, draw)
        else:
            value = json.loads(json.dumps(full))
            done = change(value, draw) if draw.random() < 0.95 else "another value"
            value = another_value(draw) if done == "another value" else value
            content = json.dumps(value).encode()  # which is YAML too
        path.write_bytes(content)
        yield command_here(seed, done, ["plan", "-f", str(path), "--staging", str(folder / "no-staging")])


KINDS = {
    **{name: partial(of_a_dataset, kinds) for name, kinds in OF_A_DATASET.items()},
    "mp4 boxes": of_videos,
    "server answers": of_answers,
    "staging objects": of_staging,
    "manifests": of_manifests,
}


def prepare(kind: str, folder: Path) -> None:
    """What is damaged."""
    write_tiny_dataset(folder / "dataset")
    if kind in {"staging objects", "manifests"}:
        with demo_model() as model:
            manifest = write_manifest(folder, folder / "dataset", model.base_url, MODULES)
            done = run_command("run", "-f", manifest, "--staging", folder / "staged")
        assert done.returncode == ExitCode.OK, done.stderr
        shutil.rmtree(folder / "output")


@pytest.mark.timeout(max(300, COUNT * 2))
@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_makes_a_traceback_a_hang_or_a_heap(kind, tmp_path, printed):
    prepare(kind, tmp_path)
    met = meet(KINDS[kind], tmp_path)
    assert len(met.cases) == COUNT
    codes = sorted({code for _, _, code, _, _ in met.cases if code is not None})
    cost = Cost(met.seconds, met.peak_bytes / 2**20)
    row(printed, f"{kind}: {COUNT} damaged, seeds from {FIRST_SEED}", f"exit {codes}", cost)
    texts = "\n".join(
        f"seed {seed}, {done}: exit {code}\n{said[-1500:]}" for seed, done, code, said, _ in met.bad[:9]
    )
    assert not met.bad, f"{len(met.bad)} of {COUNT}\n{texts}"
    refused = [code for _, _, code, _, _ in met.cases if code != ExitCode.OK]
    assert len(refused) > COUNT / 10, "damage is found"
    assert met.peak_bytes < MOST_BYTES
    assert max(seconds for *_, seconds in met.cases) < MOST_SECONDS


def test_every_kind_of_damage_to_a_dataset_is_tried():
    assert {kind for kinds in OF_A_DATASET.values() for kind in kinds} == set(MUTATIONS)
