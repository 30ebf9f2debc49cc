"""The demo's model server under vLLM's command line, as a process."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import urlopen

import pytest

SERVE = (sys.executable, "-m", "annotationrun_worker.demo.vllm", "serve")


@contextmanager
def vllm(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen([*SERVE, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def base_url(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening on "), line
    return line.split()[-1]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        pytest.param(["org/model"], ["org/model"], id="the model's id is its name"),
        pytest.param(
            ["org/model", "--served-model-name", "one", "two"], ["one", "two"], id="names of its own"
        ),
        pytest.param(
            ["m", "--max-model-len", "4096", "--enable-prefix-caching", "--dtype=auto"],
            ["m"],
            id="options that only vLLM has",
        ),
    ],
)
def test_models_go_by_the_names_that_the_command_line_gives(arguments, names):
    with (
        vllm(*arguments, "--host", "127.0.0.1", "--port", "0") as server,
        urlopen(f"{base_url(server)}/models", timeout=60) as response,
    ):
        models = json.load(response)["data"]
    assert [model["id"] for model in models] == names


def test_sigterm_ends_it():
    with vllm("m", "--port", "0", "--host", "127.0.0.1") as serving:
        base_url(serving)
        serving.terminate()
        assert serving.wait(timeout=60) == 0
