"""`annotationrun` in processes forked from one that has imported its commands already.

A command's imports take 1 to 2 s of CPU, most of what a short run takes. What the tests call by
`run_command` is a process of its own all the same: arguments, environment, folder, output, signals and exit
code are its own, and whatever it starts is started as ever. Tests of the start itself, or of a process that
is signalled while it starts, start Python.

A socket of the abstract namespace takes one connection for each call: a line of JSON, with the descriptors of
stdout and stderr, is answered by a line with the process's ID, then by one with its exit code as `subprocess`
has it.
"""

import contextlib
import importlib
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NoReturn

COMMANDS: Final = ("run", "plan", "annotate", "merge", "validate", "show", "drop", "gc")
"""Those that are imported beforehand; none of them loads torch or the Hub's client."""
_starting = threading.Lock()
_server: subprocess.Popen[str] | None = None


def run_forked(
    arguments: Sequence[str], environment: Mapping[str, str], timeout_seconds: float
) -> subprocess.CompletedProcess[str]:
    """`annotationrun ARGUMENTS` with exactly this `environment`, in the current folder.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as stdout,
        tempfile.TemporaryFile("w+", encoding="utf-8") as stderr,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.connect(_address())
        descriptors = [stdout.fileno(), stderr.fileno()]
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], descriptors)
        with connection.makefile() as answers:
            process = int(answers.readline())
            connection.settimeout(timeout_seconds)
            try:
                code = int(answers.readline())
            except TimeoutError:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout_seconds) from None
        return subprocess.CompletedProcess(list(arguments), code, _text(stdout), _text(stderr))


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _address() -> str:
    """Where this process's server listens; it is started with the first call, and ends with its stdin."""
    global _server
    with _starting:
        if _server is None or _server.poll() is not None:
            _server = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert _server.stdout is not None
            assert _server.stdout.readline() == "ready\n", "the commands can't be imported"
        return f"\0annotationrun-tests-{_server.pid}"


def serve() -> None:
    """Import the commands, then fork for each connection until stdin ends."""
    main = importlib.import_module("annotationrun_worker.__main__").main
    for name in COMMANDS:
        importlib.import_module(f"annotationrun_worker.commands.{name}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for a command
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0annotationrun-tests-{os.getpid()}")
    listener.listen()
    print("ready", flush=True)
    while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
        connection, _ = ready[0].accept()
        if os.fork() == 0:
            listener.close()
            _wait_for_command(connection, main)
        connection.close()


def _wait_for_command(connection: socket.socket, main: Callable[[], None]) -> NoReturn:
    """In a process of its own: fork the command, and tell of it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    received, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 2)
    while not received.endswith(b"\n"):
        received += connection.recv(1 << 20)
    process = os.fork()
    if process == 0:
        connection.close()
        _become_command(json.loads(received), descriptors, main)
    with contextlib.suppress(OSError):  # whoever asked has gone
        connection.sendall(f"{process}\n".encode())
        _, status = os.waitpid(process, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become_command(
    request: Mapping[str, Any], descriptors: Sequence[int], main: Callable[[], None]
) -> NoReturn:
    with pathlib.Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["annotationrun", *request["arguments"]]
    try:
        main()
    except BaseException:  # noqa: BLE001  the edge of the process, as Python's own is
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    serve()
