"""The Hub as a program: ``python -m tests.support.hub_server``. Needs the standard library alone (3.11).

Beside the Hub's protocol, on both ports: ``GET /__health``; ``GET /__counters`` (see `counters.py`); ``POST
/__clear`` sets them to zero; ``POST /__faults`` with a list of rules (see `Faults.add_json`); ``GET
/__faults`` lists the requests that got one; ``DELETE /__faults`` ends them and lets go on what hangs; ``POST
/__finish_copies``.
"""

import argparse
import signal
import threading
from pathlib import Path

from tests.support.hub_server.repos import RepoType
from tests.support.hub_server.server import HubServer
from tests.support.hub_server.state import Account, Settings


def main() -> None:
    parser = argparse.ArgumentParser(description="A Hugging Face Hub for tests; it forgets all when it ends.")
    parser.add_argument(
        "--folder", type=Path, help="repos to begin with, as datasets/USER/NAME/... and models/USER/NAME/..."
    )
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--cdn-port", type=int, default=8001)
    parser.add_argument("--token", default="hf_test")
    parser.add_argument("--user", default="me", help="whose token it is, and whose repos it may write")
    parser.add_argument("--copies-are-pending", action="store_true")
    options = parser.parse_args()
    server = HubServer(
        Settings(copies_are_pending=options.copies_are_pending),
        options.host,
        options.port,
        options.cdn_port,
    )
    server.hub.accounts = {options.token: Account(options.user)}
    if options.folder is not None:
        add_repos(server, options.folder)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with server:
        print(f"Hub on port {server.port}, CDN on port {server.cdn_port}", flush=True)
        ended.wait()


def add_repos(server: HubServer, folder: Path) -> None:
    """All that are below ``datasets`` and ``models``."""
    kinds: tuple[RepoType, ...] = ("dataset", "model")
    for repo_type in kinds:
        for path in sorted(folder.glob(f"{repo_type}s/*/*")):
            server.add_repo(f"{path.parent.name}/{path.name}", path, repo_type)


if __name__ == "__main__":
    main()
