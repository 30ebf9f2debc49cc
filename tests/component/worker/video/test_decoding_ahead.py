"""While the model answers the next frames are decoded, but no more than are soon asked about."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.support.module_runs import demo_model, look, run_here
from tests.support.openai_server import Reply

from annotationrun_worker.video.provider import VideoFrameProvider
from annotationrun_worker.vlm.server import AT_HAND

LONGEST_SECONDS = 120.0
QUIET_SECONDS = 1.0
"""Decoding an episode's sheets takes some 50 ms: what has not come in this time is not under way."""
EPISODES = 6
ONE_WINDOW = {"framesPerSecond": 1.0, "describeFirst": False}
ONE_QUESTION_AT_A_TIME = {
    "plan": {"deriveTask": "Never", "taskRephrasings": 0, "emitMemory": False, **ONE_WINDOW}
}


class Decoded:
    """The episodes whose sheets were decoded, as the provider itself is asked for them."""

    def __init__(self) -> None:
        self.episodes: set[int] = set()
        self.changed = threading.Condition()

    def add(self, episode: int) -> None:
        with self.changed:
            self.episodes.add(episode)
            self.changed.notify_all()

    def wait_for(self, count: int, seconds: float) -> bool:
        """Whether so many are decoded in time."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.episodes) >= count, seconds)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoded]:
    """Filled when the frames are there."""
    seen, tiles_by_index = Decoded(), VideoFrameProvider.tiles_by_index

    def watched(self: VideoFrameProvider, episode: Any, *arguments: Any) -> Any:
        tiles = tiles_by_index(self, episode, *arguments)
        seen.add(int(episode.index))
        return tiles

    monkeypatch.setattr(VideoFrameProvider, "tiles_by_index", watched)
    return seen


def test_the_next_episode_is_decoded_while_the_model_answers_and_none_beyond(tmp_path, decoded):
    asked, may_answer = threading.Event(), threading.Event()

    def withheld(number: int, body: dict[str, Any]) -> Reply:
        asked.set()
        assert may_answer.wait(LONGEST_SECONDS)
        return look(body)

    with demo_model(withheld) as server, ThreadPoolExecutor(1) as pool:
        run = pool.submit(
            run_here, tmp_path, server.base_url, ONE_QUESTION_AT_A_TIME,
            source={"episodes": f"0-{EPISODES - 1}"},
            workers={"requestConcurrency": 1, "episodeConcurrency": EPISODES},
        )  # fmt: skip
        try:
            assert asked.wait(LONGEST_SECONDS)
            assert decoded.wait_for(AT_HAND, LONGEST_SECONDS), "nothing is decoded while the model answers"
            assert not decoded.wait_for(AT_HAND + 1, QUIET_SECONDS), (
                "more is decoded than is soon asked about"
            )
            assert len(server.bodies) == 1
        finally:
            may_answer.set()
        run.result(LONGEST_SECONDS)
    assert len(decoded.episodes) == EPISODES
    assert server.most_in_flight == 1
