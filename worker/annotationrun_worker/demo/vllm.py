"""The demo's model server under the command line of vLLM, so that it can take the place of vLLM's image.

    python -m annotationrun_worker.demo.vllm serve MODEL --host 0.0.0.0 --port 8000

MODEL comes before the options; of these ``--host``, ``--port``, ``--served-model-name`` and
``--allowed-local-media-path`` count, all others of vLLM are ignored. Its log, a line of JSON
for each answered request, goes to stdout. Options of its own:
``--demo-latency-seconds`` (wait before each answer) and ``--demo-start-seconds`` (wait before it listens, as
a model that loads does).
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from annotationrun_worker.demo.vlm_server import DemoVlmServer, end_on_signals, serve


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="vllm", description="The demo's model server.", allow_abbrev=False)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", default="0.0.0.0")  # vLLM's default; a pod is asked by its IP  # noqa: S104  # nosec B104
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--allowed-local-media-path", type=Path)
    parser.add_argument("--demo-latency-seconds", type=float, default=0.0)
    parser.add_argument("--demo-start-seconds", type=float, default=0.0)
    known, _ignored = parser.parse_known_args(arguments)
    end_on_signals()
    time.sleep(known.demo_start_seconds)
    server = DemoVlmServer(
        Path("/dev/stdout"),
        known.port,
        known.demo_latency_seconds,
        known.host,
        known.served_model_name or [known.model],
        known.allowed_local_media_path,
    )
    serve(server)


if __name__ == "__main__":
    main()
