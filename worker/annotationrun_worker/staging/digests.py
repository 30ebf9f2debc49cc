"""Canonical JSON and SHA-256: the keys of everything that is staged."""

import hashlib
import json
import re
from typing import Final, NewType

Digest = NewType("Digest", str)
"""64 lower-case hex digits of a SHA-256."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def canonical_json(value: object) -> bytes:
    """Encode ``value`` so that equal values give equal bytes: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest_bytes(content: bytes) -> Digest:
    """SHA-256 of ``content``."""
    return Digest(hashlib.sha256(content).hexdigest())


def digest_json(value: object) -> Digest:
    """SHA-256 of the canonical JSON of ``value``."""
    return digest_bytes(canonical_json(value))


def token_digest(token: str) -> Digest:
    """What stands for a retry token, which may be any text, in paths and results: its SHA-256."""
    return digest_bytes(token.encode(errors="backslashreplace"))


def is_digest(text: str) -> bool:
    """Whether ``text`` looks like a ``Digest``."""
    return _DIGEST.fullmatch(text) is not None


def is_commit(text: str) -> bool:
    """Whether ``text`` looks like the SHA-1 of a commit: 40 lower-case hex digits."""
    return _COMMIT.fullmatch(text) is not None
