"""``annotationrun demo``: a dataset with known truth, a model that looks at the pixels, and a whole run."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from annotationrun_api.manifest import parse_manifest
from annotationrun_worker.commands.output import episode_progress, finish
from annotationrun_worker.commands.show import show
from annotationrun_worker.commands.validate import validate
from annotationrun_worker.demo.dataset import make_demo_dataset
from annotationrun_worker.errors import OutputError, ServerNotReadyError, StorageError
from annotationrun_worker.pipeline.config import Overrides, check_supported, resolve_places
from annotationrun_worker.pipeline.steps import run_local
from annotationrun_worker.pipeline.wiring import LocalRun

MANIFEST = """\
apiVersion: annotationrun.dev/v1alpha1
kind: AnnotationRun
metadata: {{name: demo}}
spec:
  source: {{path: {source}}}
  output: {{path: {output}}}
  model:
    id: demo-vlm
    serving: {{mode: External, endpoints: [{endpoint}]}}
  modules:
    plan: {{}}
    interjections: {{}}
    vqa: {{}}
"""
LISTENING = "listening on "


def demo_manifest(source: Path, output: Path, endpoint: str) -> str:
    """The manifest that the demo runs."""
    # JSON strings are YAML strings, whatever characters a path has
    quoted = {
        name: json.dumps(str(value), ensure_ascii=False)
        for name, value in (("source", source), ("output", output), ("endpoint", endpoint))
    }
    return MANIFEST.format(**quoted)


@contextmanager
def demo_server(log: Path) -> Iterator[str]:
    """The demo's model server in a process of its own; gives its base URL."""
    command = [sys.executable, "-m", "annotationrun_worker.demo.vlm_server", "--port", "0", "--log", str(log)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own program
    try:
        assert server.stdout is not None  # noqa: S101  it is a pipe
        line = server.stdout.readline()
        if not line.startswith(LISTENING):
            raise ServerNotReadyError(f"the demo's model server did not start; it said {line!r}")
        yield line.removeprefix(LISTENING).strip()
    finally:
        server.terminate()
        server.wait()


def demo(
    folder: Annotated[
        Path, typer.Argument(help="New folder for the dataset, the output and the logs.")
    ] = Path("out/demo"),
    episodes: Annotated[int, typer.Option(min=1, max=100, help="Episodes to make.")] = 4,
) -> None:
    """Make a dataset, annotate it with a model that looks at the pixels, validate it, and show it.

    Needs no GPU and no network: the model is a small program that knows coloured blocks and nothing else.
    """
    console = Console()
    folder = folder.absolute()
    _make_empty(folder)
    source, output = folder / "dataset", folder / "annotated"
    console.print(f"making a dataset of {episodes} episodes ...", highlight=False)
    try:
        make_demo_dataset(source, episodes=episodes)
    except OSError as error:
        raise StorageError(f"can't write the dataset to {source}: {error}; check space") from error
    with demo_server(folder / "model.log.jsonl") as endpoint:
        text = demo_manifest(source, output, endpoint)
        (folder / "manifest.yaml").write_text(text, encoding="utf-8")
        manifest = parse_manifest(text, str(folder / "manifest.yaml"))
        check_supported(manifest, endpoint_given=False)
        console.print("annotating ...", highlight=False)
        with episode_progress(console) as progress:
            report = run_local(LocalRun(manifest.spec, resolve_places(manifest.spec, Overrides())), progress)
    finish(console, report, None)
    validate(output)
    show(output)
    show(output, episode=0)


def _make_empty(folder: Path) -> None:
    """Make ``folder``, or find it empty.

    Raises:
        OutputError: something else is there.
        StorageError: it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(
            f"the folder {str(folder)!r} can't be made, a file is in the way: {error}; name another folder"
        ) from error
    except OSError as error:
        raise StorageError(f"the folder {str(folder)!r} can't be made: {error}; check permissions") from error
    if not is_empty:
        raise OutputError(f"the folder {str(folder)!r} is not empty; name a new one, or remove it")
