"""Seals of staged objects: whoever has no key can neither plant one nor change one.

A sealed object ends with a line end, ``seal:`` and 64 hex digits: HMAC-SHA-256 (RFC 2104) under the key, over
the object's path, a zero byte and its content. The path is in it, so an object can't pass for another. What a
seal does not tell is whether an older state of an overwritten object was put back, or one was deleted.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from annotationrun_api.step_results import STAGING_KEY_VARIABLE
from annotationrun_worker.errors import ConfigurationError, StagingError

_MARK: Final = b"\nseal:"
_SEALED: Final = re.compile(rb"\nseal:[0-9a-f]{64}\Z")
_KEY_CHARACTERS: Final = 32
"""At least; ``openssl rand -hex 32`` gives 64."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Seals what is written, and looks at the seals of what is read."""

    key: bytes = field(default=b"", repr=False)
    """Empty: nothing is sealed, and nothing that is can be read."""

    def seal(self, path: str, content: bytes) -> bytes:
        """What is written at ``path`` for ``content``."""
        return content + self._line(path, content) if self.key else content

    def open(self, path: str, written: bytes) -> bytes:
        """The content of what is written at ``path``.

        Raises:
            StagingError: it has no seal, or not the right one.
            ConfigurationError: it has one, and there is no key.
        """
        if not self.key:
            if _SEALED.search(written[-len(_MARK) - 64 :]):
                raise ConfigurationError(
                    f"the staged object {path!r} is sealed: put the key of its store into the environment "
                    f"variable {STAGING_KEY_VARIABLE} (on a cluster: spec.staging.integritySecretRef)"
                )
            return written
        content, mark, digest = written.rpartition(_MARK)
        if not hmac.compare_digest(self._line(path, content), mark + digest):
            raise StagingError("it is not sealed with this key")
        return content

    def _line(self, path: str, content: bytes) -> bytes:
        digest = hmac.new(self.key, path.encode() + b"\0" + content, hashlib.sha256).hexdigest()
        return _MARK + digest.encode()


NO_SEAL: Final = Seal()


def read_seal(environment: Mapping[str, str], *, is_named: bool = False) -> Seal:
    """The seal with the key in ``ANNOTATIONRUN_STAGING_KEY``, without the space around it.

    Args:
        environment: of the process.
        is_named: the manifest names a key.

    Raises:
        ConfigurationError: the manifest names a key and none is set, or it is too short.
    """
    key = environment.get(STAGING_KEY_VARIABLE, "").strip()
    if not key and is_named:
        raise ConfigurationError(
            "spec.staging.integritySecretRef names a key, and a Secret can't be read without a cluster; put "
            f"the key into the environment variable {STAGING_KEY_VARIABLE}, or leave the field out"
        )
    if 0 < len(key) < _KEY_CHARACTERS:
        raise ConfigurationError(
            f"the key in the environment variable {STAGING_KEY_VARIABLE} has {len(key)} characters, expected "
            f"at least {_KEY_CHARACTERS}; make one with: openssl rand -hex 32"
        )
    return Seal(key.encode())
