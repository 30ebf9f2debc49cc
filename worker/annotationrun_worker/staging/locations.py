"""Where a staging store lies: a folder, or a prefix in a bucket of an object store.

Keys, endpoint and region of an object store come from the environment (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``GOOGLE_SERVICE_ACCOUNT``, ``AZURE_STORAGE_ACCOUNT_NAME`` ...): obstore
reads them. The location itself holds no secret, and is shown as it is.
"""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from annotationrun_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

Bucket = S3Store | GCSStore | AzureStore

_SCHEMES: Final = ("s3", "gs", "az")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# A request to an endpoint that is dead fails within about a minute: the last try starts at the latest
# RETRY + BACKOFF after the first, and lasts TIMEOUT at most.
_CONNECT_TIMEOUT: Final = timedelta(seconds=5)
_TIMEOUT: Final = timedelta(seconds=20)  # for the largest object, a plan of some megabytes
_RETRY: Final = timedelta(seconds=30)
_BACKOFF: Final = timedelta(seconds=5)
_SHOWN_CHARACTERS: Final = 256
"""Of what an object store's client says."""


def folder_of(location: str | Path) -> Path | None:
    """The folder that ``location`` names: a path, or a ``file://`` URI; ``None`` for an object store."""
    if isinstance(location, Path):
        return location
    if "://" not in location:
        return Path(location)
    uri = urlsplit(location)
    return Path(unquote(uri.path)) if uri.scheme == "file" and not uri.netloc else None


def open_bucket(uri: str) -> Bucket:
    """The object store at ``uri``: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``.

    Nothing is asked of it yet. Creating is conditional (``If-None-Match``) in all three.

    Raises:
        ConfigurationError: the URI is none of these, holds more than that, or the environment does not do.
    """
    parts = urlsplit(uri)
    plain = not (parts.query or parts.fragment or "?" in uri or "#" in uri)
    if parts.scheme not in _SCHEMES or not _BUCKET.fullmatch(parts.netloc) or not plain:
        raise ConfigurationError(
            f"the staging location {_without_secrets(uri)!r} can't be used; expected a folder, "
            "file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix "
            "(keys and endpoint go into the environment)"
        )
    try:
        return _open(parts.scheme, parts.netloc, parts.path.strip("/"))
    except (BaseError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"the staging store {uri!r} can't be opened: {cause_of(error)}; look at the environment's "
            "credentials and settings for it"
        ) from error


def _open(scheme: str, bucket: str, prefix: str) -> Bucket:
    client: ClientConfig = {"connect_timeout": _CONNECT_TIMEOUT, "timeout": _TIMEOUT}
    retry: RetryConfig = {
        "retry_timeout": _RETRY,
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": _BACKOFF, "base": 2},
    }
    if scheme == "gs":
        return GCSStore(bucket, prefix=prefix, client_options=client, retry_config=retry)
    if scheme == "az":
        return AzureStore(bucket, prefix=prefix, client_options=client, retry_config=retry)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    if endpoint.startswith("http://"):
        client["allow_http"] = True  # who names such an endpoint means it
    return S3Store(bucket, prefix=prefix, client_options=client, retry_config=retry, conditional_put="etag")


def cause_of(error: Exception) -> str:
    """What ``error`` says, on one line, with the server's code or the system's words.

    The queries of URLs are left out: they may hold signatures.
    """
    text = str(error)
    line = text.partition("\n")[0].partition(": <?xml")[0]
    code = re.search(r"<Code>(\w+)</Code>", text) or re.search(r'^ *message: "([^"]+)"', text, re.MULTILINE)
    line = re.sub(r"\?\S+", "?...", line)
    if len(line) > _SHOWN_CHARACTERS:  # it begins with what was done, to which URL; the cause ends it
        line = f"{line[: _SHOWN_CHARACTERS // 2]} ... {line[-_SHOWN_CHARACTERS // 2 :]}"
    return line if code is None else f"{line} ({code[1]})"


def _without_secrets(uri: str) -> str:
    return re.sub(r"//[^/]*@", "//...@", re.sub(r"[?#].*", "?...", uri))
