"""Whole runs at malicious servers: the exit code, bounded memory, and no secret anywhere."""

import json

import pytest
from tests.support.annotation import REFERENCE, write_manifest
from tests.support.attacks import row, run_attacked
from tests.support.bad_input import FEW_ATTEMPTS, MODULES
from tests.support.raw_server import completion, healthy_but, raw_server

from annotationrun_api.exit_codes import ExitCode

KEY = "sk-canary"
MIB = 1 << 20
MAX_MEBIBYTES = 512
"""Of a run's largest process; one that is not attacked has half of it."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BUSY_SECONDS = 20
"""Of the processor; most of it is Python's start."""


def drip(exchange):
    exchange.drip(HEAD + b"Content-Length: 100000\r\n\r\n")


def pour(exchange):
    exchange.pour(HEAD + b"\r\n", b" " * MIB, 2048)


def redirect(exchange):
    exchange.answer(b"", "Location: http://127.0.0.1:9/v1/models", status="302 Found")


def repeat_key(exchange):
    key = next(line for line in exchange.head.splitlines() if line.lower().startswith(b"authorization"))
    exchange.answer(json.dumps({"error": {"message": key.decode()}}).encode(), status="401 Unauthorized")


def page_with_key(exchange):
    exchange.answer(b"<pre>" + exchange.head + b"</pre>")


def braces(exchange):
    exchange.answer(completion("{'}" * MIB))


ATTACKS = [
    pytest.param("/models", drip, ExitCode.SERVER_NOT_READY, id="models that drip"),
    pytest.param("/models", repeat_key, ExitCode.CONFIGURATION, id="models for the key"),
    pytest.param("/models", page_with_key, ExitCode.SERVER_NOT_READY, id="a page that holds the request"),
    pytest.param("/completions", pour, ExitCode.INCOMPLETE, id="answers without end"),
    pytest.param("/completions", redirect, ExitCode.CONFIGURATION, id="answers elsewhere"),
    pytest.param("/completions", braces, ExitCode.INCOMPLETE, id="answers of braces"),
]


@pytest.mark.parametrize(("path", "talk", "exit_code"), ATTACKS)
def test_a_run_at_a_malicious_server_ends_as_documented(tmp_path, printed, request, path, talk, exit_code):
    with raw_server(healthy_but(path, talk)) as server:
        serving = {"mode": "External", "endpoints": [server.base_url]}
        model = {"id": "m", "serving": serving, "requestTimeoutSeconds": 1}
        source = {"episodes": "0"}
        manifest = write_manifest(
            tmp_path, REFERENCE, server.base_url, MODULES, model=model, source=source, workers=FEW_ATTEMPTS
        )
        done, cost = run_attacked(
            "run",
            "-f",
            manifest,
            "--report",
            tmp_path / "report.json",
            environment={"ANNOTATIONRUN_API_KEY": KEY},
        )
    row(printed, f"run: {request.node.callspec.id}", f"exit {done.returncode}", cost)
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert cost.peak_mebibytes < MAX_MEBIBYTES
    assert cost.busy_seconds < BUSY_SECONDS
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert KEY not in done.stdout + done.stderr
    assert not [content for content in written if KEY.encode() in content]
