"""One result of one episode: asked of a real server, staged in a real folder, tried as often as it may be."""

import asyncio
import threading
from pathlib import Path

import numpy as np
from tests.support.asking import SAMPLING, Colour, asker, refuse_black
from tests.support.openai_server import Reply, scripted_server

from annotationrun_worker import fault_points
from annotationrun_worker.dataset.types import EpisodeIndex, EpisodeRecord
from annotationrun_worker.errors import AnswerError, GivenUpError
from annotationrun_worker.fault_points import FaultPoint
from annotationrun_worker.language.rows import StagedRow
from annotationrun_worker.modules.base import EffectiveTask, Prompts
from annotationrun_worker.pipeline.modules import Module
from annotationrun_worker.pipeline.result_maker import (
    EpisodePolicy,
    Known,
    Left,
    Made,
    ResultBasis,
    ResultMaker,
    Worker,
)
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.leases import Claims, Heartbeat, Liveness
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.video.protocol import NullFrameProvider
from annotationrun_worker.vlm.messages import text_part
from annotationrun_worker.vlm.request import Question

GIVES_UP_WITHIN_SECONDS = 60
PLAN = digest_json("a plan")
KNOWN = Known(EffectiveTask("Put the red cup on the tray"))
EPISODE = EpisodeRecord(
    index=EpisodeIndex(0),
    task="Put the red cup on the tray",
    timestamps_seconds=np.zeros(1, np.float32),
    fps=30.0,
    data_path=Path("/nowhere"),
    dataset_from_index=0,
    videos={},
)


class OneEpisode:
    """Tells of an episode what a module sees of it."""

    def fingerprint(self, episode, module):
        return digest_json([int(episode.index), module.name])


async def annotate(context):
    """One question, whose answer is the result's one row."""
    question = Question("colour", [text_part("which colour?")], Colour)
    colour, request = await context.asker.ask(question, refuse_black)
    return [StagedRow(0, role="assistant", style="subtask", content=colour, request=request)], ()


MODULE = Module("plan", (), {}, {}, annotate)


async def make(server, folder, *, makes=True, **policy):
    """What comes of the result in a process of its own: it, or the error, which is recorded."""
    store = StagingStore(folder)
    rules = EpisodePolicy(
        **{"attempts": 2, "max_unanswered_percent": 0.0, "existing_rows": "Replace"} | policy
    )
    basis = ResultBasis(OneEpisode(), NullFrameProvider(), store, Prompts(), {"id": "m"}, 7, rules, PLAN)
    async with asker(server.base_url, folder) as one, Heartbeat(store) as heartbeat:
        worker = Worker(one, Claims(store, heartbeat.me, Liveness(store))) if makes else None
        maker = ResultMaker(basis, EPISODE, worker)
        try:
            made = await maker.make(MODULE, KNOWN)
            if isinstance(made, Made) and made.is_new:
                await maker.stage(made.result)
            return made
        except AnswerError as error:
            await maker.record_failure("plan", error)
            return error
        finally:
            await maker.release()


def attempts(script, folder, *policies):
    """What comes of one attempt after another, and the bodies that the server got."""

    async def run():
        with scripted_server(script) as server:
            found = []
            for policy in policies:
                try:
                    found.append(await make(server, folder, **policy))
                except GivenUpError as error:
                    found.append(error)
            return found, server.bodies

    return asyncio.run(run())


def left_in(folder, name):
    return [path for path in (folder / name).rglob("*") if path.is_file()]


def test_a_result_is_made_once_and_then_taken_from_staging(tmp_path):
    (first, second), bodies = attempts(lambda n, b: Reply('{"colour": "red"}'), tmp_path, {}, {})
    assert (first.is_new, second.is_new) == (True, False)
    assert first.result == second.result
    assert [row.content for row in second.result.rows] == ["red"]
    assert len(bodies) == 1
    assert left_in(tmp_path, "claims") == []


def test_nothing_is_made_where_nothing_is_to_be_made(tmp_path):
    (left,), bodies = attempts(lambda n, b: Reply('{"colour": "red"}'), tmp_path, {"makes": False})
    assert (left, bodies) == (Left(None), [])


def test_an_episode_is_tried_as_often_as_it_may_and_each_time_with_another_seed(tmp_path):
    found, bodies = attempts(lambda n, b: Reply('{"colour": "black"}'), tmp_path, {}, {}, {})
    assert [type(error) for error in found] == [AnswerError, AnswerError, GivenUpError]
    assert "black is no colour" in str(found[2])
    assert [body["seed"] for body in bodies] == [7, 7, 8, 8], "each answer is corrected once"
    assert left_in(tmp_path, "claims") == []


def test_a_new_retry_token_tries_again_with_a_seed_that_was_not_asked_with(tmp_path):
    token = {"retry_token": "again"}
    found, bodies = attempts(
        lambda n, b: Reply('{"colour": "black"}' if b["seed"] < 9 else '{"colour": "red"}'),
        tmp_path, {}, {}, {}, token,
    )  # fmt: skip
    assert isinstance(found[2], GivenUpError)
    assert [row.content for row in found[3].result.rows] == ["red"]
    assert bodies[-1]["seed"] == SAMPLING.seed + 2


def test_a_result_that_was_staged_just_before_the_claim_is_not_made_again(tmp_path, monkeypatch):
    """Its maker ended between the look and the claim."""

    async def run():
        with scripted_server(lambda n, b: Reply('{"colour": "red"}')) as server:
            (tmp_path / "made").mkdir()
            await make(server, tmp_path / "made")
            (result,) = left_in(tmp_path / "made", "results")
            target = tmp_path / "raced" / result.relative_to(tmp_path / "made")

            def finish_first(point):
                if point is FaultPoint.BEFORE_CLAIM:
                    target.parent.mkdir(parents=True)
                    target.write_bytes(result.read_bytes())

            monkeypatch.setattr(fault_points, "listener", finish_first)
            return await make(server, tmp_path / "raced"), server.bodies

    made, bodies = asyncio.run(run())
    assert not made.is_new
    assert len(bodies) == 1
    assert left_in(tmp_path / "raced", "claims") == []


def test_what_a_living_worker_is_at_is_left_to_it(tmp_path):
    """It asks; meanwhile another finds its claim."""

    async def run():
        asked, may_answer = threading.Event(), threading.Event()

        def answer_late(number, body):
            asked.set()
            assert may_answer.wait(GIVES_UP_WITHIN_SECONDS)
            return Reply('{"colour": "red"}')

        with scripted_server(answer_late) as server:
            first = asyncio.create_task(make(server, tmp_path))
            await asyncio.to_thread(asked.wait, GIVES_UP_WITHIN_SECONDS)
            left = await make(server, tmp_path)
            may_answer.set()
            return await first, left, server.bodies

    made, left, bodies = asyncio.run(run())
    assert made.is_new
    assert isinstance(left, Left)
    assert left.holder is not None
    assert len(bodies) == 1
