"""A real S3 server (versitygw) over a folder, on a port of its own."""

import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

BUILD = Path(__file__).with_name("versitygw.sh")
ACCESS_KEY, SECRET_KEY = "tester", "a-secret-that-nobody-may-print"
BUCKET = "staging"
STARTS_WITHIN_SECONDS = 60


@dataclass
class S3Server:
    """Where the server listens; one bucket, and a prefix in it for whoever asks."""

    endpoint: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def new_location(self) -> str:
        return f"s3://{BUCKET}/{next(self._numbers)}/store"


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Serve `folder`; the program is built first if it is missing."""
    built = subprocess.run([BUILD], stdout=subprocess.PIPE, text=True, check=True)
    (folder / BUCKET).mkdir()
    for _ in range(5):  # another process may take the free port first
        port = free_port()
        process = subprocess.Popen(
            [built.stdout.strip(), "--port", f"127.0.0.1:{port}", "--health", "/health", "--quiet",
             "posix", folder],
            env=os.environ | {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if is_up(process, f"http://127.0.0.1:{port}/health"):
                yield S3Server(f"http://127.0.0.1:{port}")
                return
        finally:
            process.kill()
            process.wait()
    raise RuntimeError("versitygw ended at once, five times; its messages are above")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def is_up(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server answers; False if it ended."""
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while process.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return True
        except HTTPError:  # a refusal is an answer
            return True
        except (URLError, ConnectionError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    return False
