"""Which failures of the Hub's client are tried again, and what is shown of them."""

import json

import httpx2
import pytest

from annotationrun_worker.errors import HubUnavailableError
from annotationrun_worker.hub import client as calls
from annotationrun_worker.hub.client import without_queries


def raised_by_upload(cause):
    error = RuntimeError("Error while uploading 'data/x' to the Hub.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(json.JSONDecodeError("Expecting value", "<html>", 0), True, id="a gateway's page"),
        pytest.param(raised_by_upload(httpx2.ReadTimeout("")), True, id="an upload that timed out"),
        pytest.param(raised_by_upload(ValueError("no")), False, id="an upload that was refused"),
        pytest.param(RuntimeError("no"), False, id="anything else that went wrong"),
        pytest.param(ConnectionResetError(), True, id="a connection that broke"),
    ],
)
def test_what_may_work_later(error, expected):
    assert calls.is_transient(error) is expected


def test_a_failure_is_told_without_signatures(monkeypatch):
    monkeypatch.setattr(calls, "sleep", lambda seconds: None)

    def upload():
        raise raised_by_upload(httpx2.ConnectError("for url 'https://store/x?Signature=s3cret' at once"))

    with pytest.raises(HubUnavailableError, match=r"for url 'https://store/x\?\.\.\.' at once") as raised:
        calls.hub_call("uploading", upload)
    assert "s3cret" not in str(raised.value)


def test_addresses_without_queries_stay():
    assert (
        without_queries("see https://a/b, or 'https://a/b?c=d'?") == "see https://a/b, or 'https://a/b?...'?"
    )
