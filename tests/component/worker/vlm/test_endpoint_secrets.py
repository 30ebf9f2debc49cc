"""What a URL may hold beside the address is never repeated."""

import asyncio

import pytest

from annotationrun_worker.errors import ServerNotReadyError
from annotationrun_worker.vlm.client import VlmClient
from annotationrun_worker.vlm.server import ServerSettings


def test_a_server_that_is_not_there_is_named_without_user_and_query() -> None:
    settings = ServerSettings(
        base_urls=["http://ada:hunter2@127.0.0.1:9/v1?key=hunter3"],  # pragma: allowlist secret
        model="m",
        request_timeout_seconds=5,
        requests_in_flight=1,
        structured_outputs="Auto",
        context_tokens=1000,
    )

    async def check() -> None:
        client = VlmClient(settings)
        try:
            await client.check_model()
        finally:
            await client.close()

    with pytest.raises(ServerNotReadyError, match=r"no model server at 'http://127\.0\.0\.1:9/v1'") as failed:
        asyncio.run(check())
    assert "hunter" not in str(failed.value)
    assert "ada" not in str(failed.value)
