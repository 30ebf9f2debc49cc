"""A Hub and an S3 server in a pod of the cluster, with the volume's data and programs.

Pods reach both at the pod's own address: there is no DNS, and the Hub sees who asks. The tests ask the Hub
from within its pod.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.cluster.waiting import POD_STARTS_WITHIN_SECONDS
from tests.cluster.workspace import MOUNT, Workspace, readiness_probe, restricted_pod
from tests.support.hub_server.server import DEFAULT_TOKEN
from tests.support.s3_server import ACCESS_KEY, BUCKET, BUILD, SECRET_KEY

PORT, CDN_PORT, S3_PORT = 8000, 8001, 7070
TOKEN_SECRET: Final = {"name": "hub", "key": "token"}
S3_SECRET: Final = "s3"
SEAL_SECRET: Final = {"name": "staging", "key": "seal"}
LOCATION: Final = f"s3://{BUCKET}/annotationrun"
SERVER: Final = Path(__file__).parents[1] / "support" / "hub_server"
_ASK: Final = """
import sys, urllib.request
method, url, token, body = sys.argv[1:]
headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
asked = urllib.request.Request(url, data=body.encode() or None, method=method, headers=headers)
sys.stdout.write(urllib.request.urlopen(asked, timeout=60).read().decode())
"""


@dataclass(frozen=True)
class Hub:
    """The Hub's server, in a pod of a workspace."""

    space: Workspace
    address: str

    @property
    def url(self) -> str:
        """For pods."""
        return f"http://{self.address}:{PORT}"

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """An answer of the server, asked from within its pod."""
        text = "" if body is None else json.dumps(body)
        words = ("python", "-c", _ASK, method, f"http://127.0.0.1:{PORT}{path}", DEFAULT_TOKEN, text)
        # Not by standard input: its end, when it comes before the stream is there, may never arrive.
        return json.loads(self.space.kubectl("exec", "hub", "--container=hub", "--", *words))

    def counters(self) -> dict[str, Any]:
        """See `tests.support.hub_server.counters`; requests of `ask` came from 127.0.0.1."""
        found: dict[str, Any] = self.ask("GET", "/__counters")
        return found

    def files(self, repo: str) -> dict[str, tuple[str, int]]:
        """SHA and size of all that a dataset's branch main holds, by path."""
        entries = self.ask("GET", f"/api/datasets/{repo}/tree/main?recursive=true")
        return {one["path"]: (one["oid"], one["size"]) for one in entries if one["type"] == "file"}

    def commits(self, repo: str) -> list[dict[str, Any]]:
        """Of a dataset's branch main, newest first."""
        found: list[dict[str, Any]] = self.ask("GET", f"/api/datasets/{repo}/commits/main")
        return found

    def tags(self, repo: str) -> dict[str, str]:
        """The commit of each tag of a dataset."""
        tags = self.ask("GET", f"/api/datasets/{repo}/refs")["tags"]
        return {one["name"]: one["targetCommit"] for one in tags}


def start_hub(space: Workspace, repos: Mapping[str, Path]) -> Hub:
    """Start the pod `hub` with these repos (by ``datasets/USER/NAME``); the Secrets for both servers."""
    space.shell("mkdir -p program/tests/support s3/" + BUCKET)
    space.put_folder(SERVER, "program/tests/support/hub_server")
    for key, folder in repos.items():
        space.shell(f"mkdir -p hub/{Path(key).parent}")
        space.put_folder(folder, f"hub/{key}")
    built = subprocess.run([BUILD], stdout=subprocess.PIPE, text=True, check=True)
    space.put_folder(Path(built.stdout.strip()), "versitygw")
    space.create("pods", restricted_pod("hub", space.worker_image, [_hub_container(), _s3_container()]))
    pod = space.wait_until_ready("hub", POD_STARTS_WITHIN_SECONDS)
    hub = Hub(space, pod["status"]["podIP"])
    keys = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": f"http://{hub.address}:{S3_PORT}",
        "AWS_REGION": "us-east-1",
    }
    space.apply(
        _secret(S3_SECRET, keys),
        _secret(TOKEN_SECRET["name"], {TOKEN_SECRET["key"]: DEFAULT_TOKEN}),
        _secret(SEAL_SECRET["name"], {SEAL_SECRET["key"]: "0123456789abcdef" * 2}),
    )
    return hub


def _hub_container() -> dict[str, Any]:
    words = [f"--folder={MOUNT}/hub", f"--port={PORT}", f"--cdn-port={CDN_PORT}", f"--token={DEFAULT_TOKEN}"]
    return {
        "name": "hub",
        "command": ["python", "-m", "tests.support.hub_server", *words, "--user=me"],
        "workingDir": f"{MOUNT}/program",
        "readinessProbe": readiness_probe("/__health", PORT),
    }


def _s3_container() -> dict[str, Any]:
    words = ["--port", f":{S3_PORT}", "--health", "/health", "--quiet", "posix", f"{MOUNT}/s3"]
    return {
        "name": "s3",
        "command": [f"{MOUNT}/versitygw", *words],
        "env": [
            {"name": "ROOT_ACCESS_KEY", "value": ACCESS_KEY},
            {"name": "ROOT_SECRET_KEY", "value": SECRET_KEY},
        ],
        "readinessProbe": readiness_probe("/health", S3_PORT),
    }


def _secret(name: str, values: Mapping[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": dict(values)}
