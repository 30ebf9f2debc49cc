"""The operator reaches API servers whose authority is as bare as those of years ago, on any Python."""

import asyncio
import ssl

import aiohttp
import pytest

from annotationrun_operator.cluster.api import connected, watch_connection


@pytest.fixture(autouse=True)
def strict_python(monkeypatch):
    """Python 3.13 and later are strict by default; the others are made so here."""
    make = ssl.create_default_context

    def make_strict(*arguments, **named):
        context = make(*arguments, **named)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", make_strict)


@pytest.fixture
def kubeconfig(server, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    return server.kubeconfig


async def version(context, url):
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
        return await answer.json()


def test_the_authority_is_one_that_strict_checks_refuse(server, kubeconfig):
    context = ssl.create_default_context(cafile=str(server.certificates.authority))
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        asyncio.run(version(context, f"{server.api.server}/version"))


def test_the_watches_reach_it(kubeconfig):
    async def ask():
        connection = await watch_connection()
        context = connection.as_ssl_context()
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        return await version(context, f"{connection.server}/version")

    assert asyncio.run(ask())["major"] == "1"


def test_our_own_requests_reach_it(kubeconfig):
    async def ask():
        async with connected(lambda *request: None) as api:
            return await api.is_served()

    assert asyncio.run(ask())
