"""A proxy before an API server, as load balancers are: it can swallow what watches bring, or all."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from tests.support.kube_api import KubeApi

_HOP_BY_HOP = {"transfer-encoding", "content-encoding", "content-length", "connection"}


@dataclass
class WatchProxy:
    """What it does to the requests that go through."""

    url: str = ""
    swallowed: set[str] = field(default_factory=set)
    """Resources, as in ``pods``, whose watches bring bookmarks alone."""
    is_away: bool = False
    """Whether it answers everything with 503."""
    transports: set[asyncio.Transport] = field(default_factory=set)
    """Of the open watches."""

    def close_watches(self) -> None:
        """As a load balancer that is started anew."""
        for transport in self.transports:
            transport.close()


def plain_kubeconfig(server: str) -> str:
    """The text of a kubeconfig for plain HTTP, without credentials."""
    return f"""\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{server}"}}}}]
users: [{{name: u, user: {{}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


@asynccontextmanager
async def watch_proxy(api: KubeApi) -> AsyncIterator[WatchProxy]:
    """Serve plain HTTP on the loopback interface; upstream with the rights of `api`."""
    proxy = WatchProxy()
    assert api.client_certificate is not None
    connector = aiohttp.TCPConnector(ssl=api.client_certificate.ssl_context(), limit=0)
    async with aiohttp.ClientSession(api.server, connector=connector, auto_decompress=True) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            if proxy.is_away:
                return web.Response(status=503)
            headers = {
                name: request.headers[name] for name in ("Accept", "Content-Type") if name in request.headers
            }
            body = await request.read() or None
            async with session.request(
                request.method, request.path_qs, headers=headers, data=body, timeout=aiohttp.ClientTimeout()
            ) as upstream:
                kept = {
                    name: text for name, text in upstream.headers.items() if name.lower() not in _HOP_BY_HOP
                }
                try:
                    if request.query.get("watch") != "true":
                        return web.Response(body=await upstream.read(), status=upstream.status, headers=kept)
                    return await _stream(proxy, request, upstream, kept)
                finally:
                    _cut(upstream)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield proxy
        finally:
            await runner.cleanup()


async def _stream(
    proxy: WatchProxy, request: web.Request, upstream: aiohttp.ClientResponse, headers: dict[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(status=upstream.status, headers=headers)
    await response.prepare(request)
    resource = request.path.rpartition("/")[2]
    assert request.transport is not None
    transport = request.transport
    proxy.transports.add(transport)
    try:
        async for line in upstream.content:
            if resource not in proxy.swallowed or json.loads(line)["type"] == "BOOKMARK":
                await response.write(line)
    except (ConnectionError, aiohttp.ClientError):  # one of the ends has closed
        return response
    finally:
        proxy.transports.discard(transport)
    return response


def _cut(upstream: aiohttp.ClientResponse) -> None:
    """End the connection of an answer that was not read to its end.

    To close it would be to say goodbye in TLS and leave: the loop may end before the goodbye comes back, and
    the socket stay open.
    """
    if upstream.connection is not None and upstream.connection.transport is not None:
        upstream.connection.transport.abort()
