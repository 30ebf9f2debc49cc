"""Azurite, Microsoft's emulator of Azure's blob storage, on a port of its own."""

import base64
import hashlib
import hmac
import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.request import Request, urlopen

from tests.support.s3_server import free_port, is_up

ENVIRONMENT = Path(__file__).parent / "azurite" / "environment.sh"
ACCOUNT = "devstoreaccount1"
# The emulator's own, which everybody knows.
ACCOUNT_KEY = "".join(
    [
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6",  # pragma: allowlist secret
        "IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",  # pragma: allowlist secret
    ]
)
CONTAINER = "staging"


@dataclass
class AzureServer:
    """Where the server listens; one container, and a prefix in it for whoever asks."""

    endpoint: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def environment(self) -> dict[str, str]:
        return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": self.endpoint}

    def new_location(self) -> str:
        return f"az://{CONTAINER}/{next(self._numbers)}/store"


@contextmanager
def azure_server() -> Iterator[AzureServer]:
    """Serve from memory; the program is installed first if it is missing."""
    built = subprocess.run([ENVIRONMENT], stdout=subprocess.PIPE, text=True, check=True)
    program = Path(built.stdout.strip()) / "azurite-blob"
    for _ in range(5):  # another process may take the free port first
        port = free_port()
        process = subprocess.Popen(
            [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence",
             "--skipApiVersionCheck", "--disableTelemetry", "--silent"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if is_up(process, f"http://127.0.0.1:{port}/{ACCOUNT}"):
                server = AzureServer(f"http://127.0.0.1:{port}")
                _create_container(server)
                yield server
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError("Azurite does not come up")


def _create_container(server: AzureServer) -> None:
    """Create Container, signed with the account's key (Azure's REST API, "Authorize with Shared Key")."""
    headers = {"x-ms-date": format_datetime(datetime.now(UTC), usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "\n".join(f"{name}:{value}" for name, value in sorted(headers.items()))
    resource = f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    text = "PUT" + "\n" * 12 + f"{signed}\n{resource}"
    digest = hmac.digest(base64.b64decode(ACCOUNT_KEY), text.encode(), hashlib.sha256)
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"{server.endpoint}/{ACCOUNT}/{CONTAINER}?restype=container"
    with urlopen(Request(url, method="PUT", headers=headers | {"Content-Length": "0"})) as answer:
        assert answer.status == 201
