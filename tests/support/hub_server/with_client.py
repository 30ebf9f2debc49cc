"""A Hub with one dataset, for tests that ask it by the Hub's client in their own process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import HfApi, close_session, constants
from tests.support.hub_server.server import DEFAULT_TOKEN, HubServer

VIDEO, TABLE, INFO = "videos/top/file-000.mp4", "data/chunk-000/file-000.parquet", "meta/info.json"
CONTENTS = {VIDEO: bytes(range(256)) * 400, TABLE: b"PAR1" + b"t" * 3000, INFO: b'{"fps": 30}'}
REPO, KEY = "me/source", "datasets/me/source"


@contextmanager
def small_hub() -> Iterator[HubServer]:
    """A Hub that holds `CONTENTS` as the dataset `REPO`; the client does without Xet."""
    with pytest.MonkeyPatch.context() as patch, HubServer() as server:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        server.add_repo(REPO, CONTENTS)
        yield server
        close_session()  # the client would keep connections to a server that is gone


def owner_api(server: HubServer) -> HfApi:
    return HfApi(endpoint=server.url, token=DEFAULT_TOKEN)


def download(api: HfApi, path: str, cache: Path, repo: str = REPO, token: str | bool | None = None) -> bytes:
    """Content of a dataset's file, through the client's cache."""
    got = api.hf_hub_download(repo, path, repo_type="dataset", cache_dir=cache, token=token)
    return Path(got).read_bytes()
