"""The prompts: plain text files beside this module, one per use, with ``{placeholders}``.

A run may put texts of its own in the place of shipped ones, and may ask for another language.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Final

from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.staging.digests import Digest, digest_bytes

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
SHIPPED_LANGUAGE = "English"

_FRAMES: Final = {"shown": "what the frames are, and where their times are written"}
_COORDINATES: Final = {"coordinates": "the unit of the coordinates"}
NEEDED: Final[Mapping[str, Mapping[str, str]]] = {
    "coordinate_probe": _COORDINATES,
    "description": _FRAMES,
    "interjection": {"next": "the subtask that is to be asked for"},
    "label": {
        **_FRAMES,
        "label": "the label that is to be checked",
        "start_seconds": "when the subtask begins",
        "end_seconds": "when the subtask ends",
    },
    "memory": {"finished": "the subtask just finished", "memory": "the memory so far"},
    "rephrasings": {"task": "the instruction that is to be rephrased"},
    "subtasks": {**_FRAMES, "window_seconds": "how many seconds are shown"},
    "task": _FRAMES,
    "task_axes": {"task": "the instruction that is to be varied"},
    "vqa_bbox": _COORDINATES,
    "vqa_keypoint": _COORDINATES,
}
"""By prompt, the placeholders without which no answer to it can be right, and what each tells the model."""


@lru_cache(maxsize=1)
def shipped_names() -> tuple[str, ...]:
    """The names of the shipped prompts, sorted."""
    folder = files("annotationrun_worker.annotate") / "prompts"
    return tuple(sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir()))


@lru_cache
def read_prompt(name: str) -> str:
    """The text of the shipped prompt ``name``."""
    return (files("annotationrun_worker.annotate") / "prompts" / f"{name}.txt").read_text(encoding="utf-8")


def placeholders(text: str) -> list[str]:
    """The names in braces, each once, in order."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(text)))


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a run; make one with ``make_prompts`` where texts come from outside."""

    overrides: Mapping[str, str] = field(default_factory=dict)
    """Texts in place of shipped ones, by name."""
    output_language: str = SHIPPED_LANGUAGE

    def text(self, name: str) -> str:
        """The text of the prompt ``name``, its placeholders not filled."""
        text = self.overrides.get(name) or read_prompt(name)
        if self.output_language == SHIPPED_LANGUAGE:
            return text
        return (
            f"{text.rstrip()}\nWrite all text of the answer in {self.output_language}; the keys of the JSON "
            "object, and values that are given above as a fixed list, stay as they are.\n"
        )

    def digests(self, names: Iterable[str]) -> dict[str, Digest]:
        """By name, the SHA-256 of each prompt's text: a changed prompt is a changed result."""
        return {name: digest_bytes(self.text(name).encode()) for name in names}

    def fill(self, name: str, values: Mapping[str, object]) -> str:
        """The prompt ``name`` with its placeholders replaced by ``values``.

        Braces that are no placeholder (the JSON examples) stay as they are. Values are not searched again,
        so a task text with braces does no harm.

        Raises:
            KeyError: the prompt has a placeholder that ``values`` lacks.
        """
        return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), self.text(name))


def make_prompts(overrides: Mapping[str, str], output_language: str) -> Prompts:
    """The prompts of a manifest: ``spec.prompts`` and ``spec.outputLanguage``.

    Raises:
        ConfigurationError: there is no prompt of a name; a text has a placeholder that its prompt does not
            know, or leaves out one of ``NEEDED``.
    """
    for name, text in overrides.items():
        if name not in shipped_names():
            raise ConfigurationError(
                f"spec.prompts names {name!r}, which is no prompt; there are {', '.join(shipped_names())}"
            )
        _check_placeholders(name, text)
    return Prompts(dict(overrides), output_language)


def _check_placeholders(name: str, text: str) -> None:
    found, known = placeholders(text), placeholders(read_prompt(name))
    unknown = [placeholder for placeholder in found if placeholder not in known]
    if unknown:
        raise ConfigurationError(
            f"spec.prompts.{name} has the placeholder {{{unknown[0]}}}, which it does not know; "
            f"it may use {', '.join(map(_braced, known))}"
        )
    missing = [f"{_braced(it)} ({why})" for it, why in NEEDED.get(name, {}).items() if it not in found]
    if missing:
        raise ConfigurationError(
            f"spec.prompts.{name} leaves out {', '.join(missing)}: the answers can't be right without it; "
            f"add it as the shipped prompt has it (annotationrun_worker/annotate/prompts/{name}.txt), or "
            f"remove spec.prompts.{name}"
        )


def override_warnings(overrides: Mapping[str, str]) -> list[str]:
    """What texts in the place of shipped ones leave out and can do without; ``overrides`` was checked."""
    warnings = []
    for name, text in overrides.items():
        found, known = placeholders(text), placeholders(read_prompt(name))
        missing = ", ".join(_braced(placeholder) for placeholder in known if placeholder not in found)
        if missing:
            warnings.append(
                f"spec.prompts.{name} leaves out {missing}, which the shipped prompt has: the model is asked "
                "without this information, so its answers may be poorer"
            )
    return warnings


def _braced(placeholder: str) -> str:
    return f"{{{placeholder}}}"
