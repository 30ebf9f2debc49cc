"""Progress over all workers, and one worker's metrics: told over real HTTP, marks in a real store."""

import asyncio
import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest

from annotationrun_api.step_results import METRICS_PATH, PROGRESS_PATH, WorkerProgress, read_result
from annotationrun_worker.errors import ConfigurationError, StorageError
from annotationrun_worker.pipeline import progress as progress_module
from annotationrun_worker.pipeline.progress import Account, StoreProgress, WorkerMetrics, serve_progress
from annotationrun_worker.pipeline.report import AnnotateReport
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.progress import EpisodeMarks
from annotationrun_worker.staging.store import open_store
from annotationrun_worker.video.protocol import FrameCounts

PLAN = digest_json("plan")
EPISODES = range(10)
SECONDS = 30


def mark(marks, done=(), failed=()):
    async def all_of_them():
        for episode in done:
            await marks.mark_done(episode)
        for episode in failed:
            await marks.mark_failed(episode)

    asyncio.run(all_of_them())


NOTHING_DONE = WorkerMetrics(Account("run"), AnnotateReport(), FrameCounts)


@contextmanager
def progress_of(marks, metrics=NOTHING_DONE):
    progress = StoreProgress(marks, EPISODES)
    with serve_progress(0, progress, metrics) as port:
        yield port


def ask(port, path=PROGRESS_PATH, method="GET", host="127.0.0.1"):
    """Status, headers and body."""
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def told(port):
    status, _, body = ask(port)
    assert status == 200
    found = read_result(body, WorkerProgress)
    assert (found.plan, found.total) == (PLAN, len(EPISODES))
    return found.done, found.failed


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A listing may take long on a machine that is busy."""
    monkeypatch.setattr(progress_module, "_WAIT_SECONDS", SECONDS)


@pytest.fixture
def looks_each_time(monkeypatch):
    monkeypatch.setattr(progress_module, "LOOK_AGAIN_SECONDS", 0.0)


@pytest.mark.usefixtures("looks_each_time")
def test_what_all_workers_marked_is_counted(location):
    marks = EpisodeMarks(open_store(location), PLAN, "token")
    with progress_of(marks) as port:
        assert told(port) == (0, 0)
        mark(marks, done=[1, 2], failed=[3])
        of_another_worker = EpisodeMarks(open_store(location), PLAN, "token")
        mark(of_another_worker, done=[2, 9], failed=[3, 4])
        assert told(port) == (3, 2)
        mark(marks, done=[3])  # tried again, and done
        assert told(port) == (4, 1)


@pytest.mark.usefixtures("looks_each_time")
def test_marks_of_other_plans_tokens_and_episodes_do_not_count(location):
    store = open_store(location)
    mark(EpisodeMarks(store, digest_json("another"), "token"), done=[1], failed=[2])
    mark(EpisodeMarks(store, PLAN, "an old token"), done=[1], failed=[2, 3])
    mark(EpisodeMarks(store, PLAN, "token"), done=[77], failed=[78])
    marks = EpisodeMarks(store, PLAN, "token")
    with progress_of(marks) as port:
        assert told(port) == (1, 0)
    assert marks.done_now() == {1, 77}
    assert marks.failed_now() == {78}


def test_the_store_is_listed_every_two_seconds_at_most_and_only_when_asked(tmp_path):
    listings = []

    class Counted(EpisodeMarks):
        def done_now(self):
            listings.append(time.monotonic())
            return super().done_now()

    marks = Counted(open_store(tmp_path), PLAN)
    with progress_of(marks) as port:
        assert listings == []
        start = time.monotonic()
        while len(listings) < 2 and time.monotonic() - start < SECONDS:
            told(port)
        assert len(listings) == 2
        assert listings[1] - listings[0] >= 2.0


def test_before_the_first_listing_is_there_it_is_not_known_and_then_the_last_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module, "LOOK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "_WAIT_SECONDS", 0.05)
    go_on = threading.Semaphore(0)

    class Slow(EpisodeMarks):
        def failed_now(self):
            assert go_on.acquire(timeout=SECONDS)
            return super().failed_now()

    marks = Slow(open_store(tmp_path), PLAN)
    mark(marks, done=[1])
    with progress_of(marks) as port:
        assert ask(port)[0] == 503
        go_on.release()
        deadline = time.monotonic() + SECONDS
        while ask(port)[0] != 200 and time.monotonic() < deadline:
            pass
        mark(marks, done=[2])
        assert told(port) == (1, 0)
        go_on.release()
        while told(port) != (2, 0) and time.monotonic() < deadline:
            pass
        assert time.monotonic() < deadline
        go_on.release()


def test_a_store_that_can_not_be_read_is_told_as_such(tmp_path, capfd):
    class Broken(EpisodeMarks):
        def done_now(self):
            raise StorageError("secret details")

    with progress_of(Broken(open_store(tmp_path), PLAN)) as port:
        status, _, body = ask(port)
    assert (status, body) == (503, b"503 Service Unavailable\n")
    assert capfd.readouterr() == ("", "")


def test_metrics_are_told_beside_it_though_the_store_can_not_be_read(tmp_path):
    class Broken(EpisodeMarks):
        def done_now(self):
            raise StorageError("gone")

    report = AnnotateReport()
    metrics = WorkerMetrics(Account("run"), report, FrameCounts)
    with progress_of(Broken(open_store(tmp_path), PLAN), metrics) as port:
        assert ask(port)[0] == 503
        report.episodes_finished = 3
        status, headers, body = ask(port, METRICS_PATH)
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    assert b'annotationrun_worker_episodes_total{outcome="done"} 3.0\n' in body


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", "/", 404, id="the root"),
        pytest.param("GET", "/progress/", 404, id="a folder"),
        pytest.param("GET", "/progress?plan=x", 404, id="a query"),
        pytest.param("GET", "/metrics/", 404, id="a folder of metrics"),
        pytest.param("GET", "/../progress", 404, id="a way around"),
        pytest.param("GET", f"/{'x' * 70_000}", 414, id="a long path"),
        pytest.param("POST", "/progress", 501, id="another method"),
    ],
)
def test_anything_else_is_refused_in_few_words(tmp_path, capfd, method, path, status):
    with progress_of(EpisodeMarks(open_store(tmp_path), PLAN)) as port:
        found, headers, body = ask(port, path, method)
        assert told(port) == (0, 0)
    assert found == status
    assert len(body) < 100
    assert "Python" not in headers["Server"]
    assert capfd.readouterr() == ("", "")


def test_it_answers_on_every_address_and_closes_each_connection(tmp_path):
    with progress_of(EpisodeMarks(open_store(tmp_path), PLAN)) as port:
        status, headers, body = ask(port, host="127.0.0.2")
        assert status == 200
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body)["version"] == 1
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as one:
            one.sendall(b"GET /progress HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
            while one.recv(4096):
                pass  # until it is closed


def test_clients_that_say_nothing_or_go_away_keep_nobody_out(tmp_path, capfd):
    with progress_of(EpisodeMarks(open_store(tmp_path), PLAN)) as port:
        silent = [socket.create_connection(("127.0.0.1", port), timeout=SECONDS) for _ in range(2)]
        gone = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        gone.sendall(b"GET /prog")
        gone.close()
        assert told(port) == (0, 0)
        for one in silent:
            one.close()
    assert capfd.readouterr() == ("", "")


def test_a_client_that_drips_does_not_keep_the_worker_from_its_end(tmp_path):
    stop = threading.Event()

    def drip(one):
        while not stop.wait(0.05):
            try:
                one.sendall(b"x")
            except OSError:
                return

    with socket.socket() as one:
        with progress_of(EpisodeMarks(open_store(tmp_path), PLAN)) as port:
            one.connect(("127.0.0.1", port))
            one.sendall(b"GET /")
            dripping = threading.Thread(target=drip, args=(one,))
            dripping.start()
        stop.set()
        dripping.join()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS)


def test_a_port_that_is_taken_is_named(tmp_path):
    marks = EpisodeMarks(open_store(tmp_path), PLAN)
    with (
        progress_of(marks) as port,
        pytest.raises(ConfigurationError, match=rf"port {port}: Address already in use.*--progress-port"),
        serve_progress(port, StoreProgress(marks, EPISODES), NOTHING_DONE),
    ):
        pass
