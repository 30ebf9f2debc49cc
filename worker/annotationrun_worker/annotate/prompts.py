"""The prompts: plain text files beside this module, one per use, with ``{placeholders}``."""

import re
from collections.abc import Mapping
from importlib.resources import files

from annotationrun_worker.staging.digests import Digest, digest_bytes

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def read_prompt(name: str) -> str:
    """The text of the shipped prompt ``name``."""
    return (files("annotationrun_worker.annotate") / "prompts" / f"{name}.txt").read_text(encoding="utf-8")


def prompt_digests(names: tuple[str, ...]) -> dict[str, Digest]:
    """By name, the SHA-256 of each prompt's text: a changed prompt is a changed result."""
    return {name: digest_bytes(read_prompt(name).encode()) for name in names}


def fill_prompt(name: str, values: Mapping[str, object]) -> str:
    """The prompt ``name`` with its placeholders replaced by ``values``.

    Braces that are no placeholder (the JSON examples) stay as they are. Values are not searched again, so a
    task text with braces does no harm.

    Raises:
        KeyError: the prompt has a placeholder that ``values`` lacks.
    """
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), read_prompt(name))
