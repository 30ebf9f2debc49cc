"""How the test cluster starts, watches and stops its programs; with real ones."""

import os
import signal
import sys

import pytest
from tests.cluster import host
from tests.cluster.host import HostError, check_disk, install
from tests.cluster.processes import ProcessError, Processes, noted_processes

WAIT = "import signal; print('I run', flush=True); signal.pause()"
SLEEP = [sys.executable, "-c", WAIT]
STUBBORN = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}"]
FAILING = [sys.executable, "-c", "raise SystemExit('no such flag')"]


@pytest.fixture
def processes(tmp_path):
    started = Processes(tmp_path)
    yield started
    for process in started.started:
        process.stop(within_seconds=0)


def wait_for_start(processes, name):
    log = processes.folder / f"{name}.log"
    processes.wait_until(name, lambda: "I run" in log.read_text(), within_seconds=60)


def test_another_command_stops_what_is_noted(processes, tmp_path):
    processes.start("one", SLEEP)
    processes.start("two", SLEEP)
    wait_for_start(processes, "two")
    noted = noted_processes(tmp_path)
    assert [process.name for process in noted.started] == ["one", "two"]
    pids = [process.pid for process in noted.started]
    noted.stop_all()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_that_ignores_sigterm_is_killed(processes):
    processes.start("stubborn", STUBBORN)
    wait_for_start(processes, "stubborn")
    processes.started[0].stop(within_seconds=0.2)
    assert not processes.started[0].is_alive()


def test_a_process_that_only_has_the_pid_of_a_noted_one_is_left_alone(processes):
    processes.start("one", SLEEP)
    wait_for_start(processes, "one")
    (real,) = processes.started
    type(real)("one", real.pid, real.start_ticks - 1).stop()
    assert real.is_alive()


def test_waiting_ends_when_a_process_ends_and_tells_what_it_said(processes):
    processes.start("one", SLEEP)
    processes.start("kubelet", FAILING)
    with pytest.raises(ProcessError, match=r"(?s)waiting for a node: kubelet ended by itself.*no such flag"):
        processes.wait_until("a node", lambda: False, within_seconds=60)


def test_waiting_too_long_tells_what_all_said(processes):
    processes.start("one", SLEEP)
    wait_for_start(processes, "one")
    with pytest.raises(ProcessError, match=r"(?s)a node took longer than 0 s.*I run"):
        processes.wait_until("a node", lambda: False, within_seconds=0.0)


def test_a_process_that_was_killed_is_no_longer_alive(processes):
    processes.start("one", SLEEP)
    (process,) = processes.started
    os.kill(process.pid, signal.SIGKILL)
    process.stop()
    assert not process.is_alive()


def test_missing_packages_are_named_where_there_is_no_apt(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"the Debian packages etcd-server, .* are missing; install them"):
        install({"no-such-etcd": "etcd-server", "no-such-runc": "runc"})


def test_too_little_disk_is_told_before_anything_is_built(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "CACHE", tmp_path)
    monkeypatch.setattr(host, "DISK_NEEDED_BYTES", 1 << 60)
    with pytest.raises(HostError, match="GiB free, a cluster needs 1073741824 GiB; remove something"):
        check_disk(built=False)
