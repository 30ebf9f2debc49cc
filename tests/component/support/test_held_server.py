"""The model server of the cluster's tests holds its answers back until it is let go."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from tests.cluster import held_server
from tests.cluster.held_server import ANSWERS, HeldServer


@pytest.fixture
def hold(tmp_path, monkeypatch):
    file = tmp_path / "hold"
    monkeypatch.setattr(held_server, "HOLD", file)
    monkeypatch.setattr(HeldServer, "_given", 0)
    return file


@pytest.fixture
def wait(tmp_path, hold):
    """Begins what an answer waits for; it is let go in the end, whatever came of the test."""
    with (
        HeldServer(tmp_path / "log.jsonl", latency_seconds=0.25) as server,
        ThreadPoolExecutor() as pool,
        ExitStack() as stack,
    ):
        stack.callback(hold.unlink, missing_ok=True)
        yield lambda: pool.submit(lambda: server.latency_seconds)


def test_so_many_answers_are_given_and_the_next_one_when_it_is_let_go(wait, hold):
    hold.touch()
    for _ in range(ANSWERS):
        assert wait().result(timeout=30) == 0.25
    held = wait()
    with pytest.raises(TimeoutError):
        held.result(timeout=0.5)
    hold.unlink()
    assert held.result(timeout=30) == 0.25


def test_what_nobody_holds_is_answered(wait):
    for _ in range(2 * ANSWERS):
        assert wait().result(timeout=30) == 0.25
