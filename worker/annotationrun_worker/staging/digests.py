"""Canonical JSON and SHA-256: the keys of everything that is staged."""

import hashlib
import json
from typing import NewType

Digest = NewType("Digest", str)
"""64 lower-case hex digits of a SHA-256."""


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
