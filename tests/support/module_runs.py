"""Runs in this process, for tests of what the modules ask: whole runs, with the model's answers at hand."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.annotation import REFERENCE, write_manifest
from tests.support.openai_server import Reply, Script, ScriptedServer, scripted_server

from annotationrun_api.manifest import load_manifest
from annotationrun_worker.demo.answers import answer
from annotationrun_worker.demo.chat_request import parse_request
from annotationrun_worker.pipeline.config import Overrides, check_supported, resolve_places
from annotationrun_worker.pipeline.steps import RunReport, run_local
from annotationrun_worker.pipeline.wiring import LocalRun

EVERY_MODULE: dict[str, Any] = {"plan": {}, "interjections": {}, "vqa": {}}


def kind_of(body: dict[str, Any]) -> str:
    """What is asked in a request, such as ``subtasks``."""
    return str(body["response_format"]["json_schema"]["name"])


def text_of(body: dict[str, Any]) -> str:
    """The text parts of a request's first message."""
    return "\n".join(part["text"] for part in body["messages"][0]["content"] if part["type"] == "text")


def look(body: dict[str, Any]) -> Reply:
    """The demo model's answer, from the pixels and words of the request."""
    return Reply(json.dumps(answer(parse_request(body))))


@contextmanager
def demo_model(script: Script = lambda number, body: look(body)) -> Iterator[ScriptedServer]:
    """The demo model behind a real server that keeps what it was asked; ``script`` may answer otherwise."""
    with scripted_server(script, models=("demo-vlm",)) as server:
        yield server


def run_here(
    folder: Path, endpoint: str, modules: dict[str, Any], dataset: Path = REFERENCE, **spec: Any
) -> RunReport:
    """Annotate ``dataset`` into ``folder/output``, with what is staged in ``folder`` already."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = load_manifest(write_manifest(folder, dataset, endpoint, modules, **spec))
    check_supported(manifest, endpoint_given=False)
    run = LocalRun(manifest.spec, resolve_places(manifest.spec, Overrides()))
    report = run_local(run, lambda event: None)
    if report.fault is not None:
        raise report.fault
    return report
