"""A small S3-like server in this process that obeys conditions on writes, ignores them, or refuses them.

It keeps objects in memory, checks no signature, and lists everything at once. The real server of the tests is
versitygw (`s3_server`); this one stands for the stores that are less than that.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

Conditions = Literal["obeyed", "ignored", "refused", "ignored in updates", "no etags"]
TIME = "2026-01-01T00:00:00.000Z"
HTTP_TIME = "Thu, 01 Jan 2026 00:00:00 GMT"


@dataclass
class OddS3Server:
    """Where it listens, and what it holds by key, the bucket's name first."""

    endpoint: str
    conditions: Conditions
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Method and path of each."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "unchecked",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def put(self, key: str, content: bytes, if_none_match: str | None, if_match: str | None) -> int:
        """The status of the answer."""
        with self._lock:
            if (if_none_match or if_match) and self.conditions == "refused":
                return 501
            if self.conditions != "ignored":
                if if_none_match and key in self.objects:
                    return 412
                if if_match and self.conditions == "obeyed" and if_match != self.etag(key):
                    return 412
            self.objects[key] = content
            return 200

    def etag(self, key: str) -> str | None:
        content = self.objects.get(key)
        return None if content is None else f'"{hashlib.md5(content).hexdigest()}"'

    def delete(self, key: str) -> None:
        with self._lock:
            self.objects.pop(key, None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *arguments: object) -> None:
        """Nothing is printed."""

    @property
    def odd(self) -> OddS3Server:
        return self.server.odd

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        self.odd.requests.append(f"{self.command} {self.key}")
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def etags(self, key: str) -> dict[str, str]:
        etag = self.odd.etag(key)
        return {} if etag is None or self.odd.conditions == "no etags" else {"ETag": etag}

    def do_PUT(self) -> None:
        content = self.body()
        status = self.odd.put(
            self.key, content, self.headers.get("If-None-Match"), self.headers.get("If-Match")
        )
        code = {412: "PreconditionFailed", 501: "NotImplemented"}.get(status)
        error = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
        self.answer(status, error, **({} if code else {"ETag": self.odd.etag(self.key) or ""}))

    def do_GET(self) -> None:
        self.body()
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self.answer(200, self.listing(query.get("prefix", [""])[0]))
            return
        content = self.odd.objects.get(self.key)
        if content is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        self.answer(200, content, Last_Modified=HTTP_TIME, **self.etags(self.key))

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self.body()
        self.odd.delete(self.key)
        self.answer(204)

    def do_POST(self) -> None:
        """Of several objects that are deleted at once."""
        bucket = self.key.partition("/")[0]
        keys = [
            found.text or ""
            for found in ElementTree.fromstring(self.body()).iter()
            if found.tag.endswith("Key")
        ]
        for key in keys:
            self.odd.delete(f"{bucket}/{key}")
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self.answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def listing(self, prefix: str) -> bytes:
        bucket = self.key.partition("/")[0]
        found = sorted(
            (key.partition("/")[2], content)
            for key, content in self.odd.objects.items()
            if key.startswith(f"{bucket}/{prefix}")
        )
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size>"
            f"<LastModified>{TIME}</LastModified><ETag>e</ETag></Contents>"
            for key, content in found
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    odd: OddS3Server


@contextmanager
def odd_s3_server(conditions: Conditions) -> Iterator[OddS3Server]:
    """Serve on a port of its own."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.odd = OddS3Server(f"http://127.0.0.1:{server.server_port}", conditions)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.odd
        finally:
            server.shutdown()
            thread.join()
