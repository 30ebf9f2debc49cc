"""The dataset's card, ``README.md``: the user's text, and one section of ours in it.

Nothing else of the card changes, but for tags that its front matter lacks.
https://huggingface.co/docs/hub/datasets-cards
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from annotationrun_worker.errors import OutputError
from annotationrun_worker.hub.publication import (
    CARD_NAME,
    RECORD_NAME,
    Provenance,
    failed_text,
    labelled_text,
    model_text,
    one_line,
    source_text,
)

TAGS: Final = ("LeRobot", "annotationrun")
"""The first is what LeRobot puts into its own cards."""
BEGIN: Final = "<!-- annotationrun:begin -->"
END: Final = "<!-- annotationrun:end -->"

_SHOWN_UNANSWERED: Final = 20
"""Lines about questions without an answer; the dataset's record has all."""

_SECTION: Final = re.compile(
    rf"{re.escape(BEGIN)}(?:(?!{re.escape(BEGIN)}).)*?{re.escape(END)}[ \t]*(?:\r?\n)?", re.DOTALL
)
_FRONT_MATTER: Final = re.compile(
    r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE
)
_TAG_LIST: Final = re.compile(r"^tags:[ \t]*\r?\n((?:[ \t]*-[ \t].*(?:\r?\n))+)", re.MULTILINE)
_FRONT_MATTER_CHARACTERS: Final = 64 * 1024
"""What the Hub writes by itself (features, splits) are some thousand."""
_OPEN_BRACKETS: Final = 50
_NEW_FRONT_MATTER: Final = (
    "task_categories:\n- robotics\ntags:\n- LeRobot\n- annotationrun\n"
    "configs:\n- config_name: default\n  data_files: data/*/*.parquet\n"
)
"""As LeRobot's own, so that the Hub's viewer shows the rows; what licence it has, only its owner can say."""


def updated_card(content: bytes | None, merge_digest: str, provenance: Provenance) -> bytes:
    """The card with our section, new or in the place of the one that it has.

    Args:
        content: of the card as it is; ``None``: there is none.
        merge_digest: of the dataset.
        provenance: of the labels.

    Raises:
        OutputError: it is not UTF-8.
    """
    try:
        text = "" if content is None else content.decode()
    except UnicodeDecodeError as error:
        raise OutputError(
            f"the card {CARD_NAME} is not UTF-8 ({error.reason} at byte {error.start}); correct it where the "
            "dataset lies, then run again"
        ) from error
    newline = "\r\n" if "\r\n" in text else "\n"
    section = _section(merge_digest, provenance).replace("\n", newline)
    return _with_section(_with_tags(text, newline), section, newline).encode()


def _with_section(text: str, section: str, newline: str) -> str:
    found = _SECTION.search(text)
    if found is None:
        gap = "" if not text or text.endswith(newline * 2) else newline
        end = "" if not text or text.endswith(newline) else newline
        return f"{text}{end}{gap}{section}"
    return text[: found.start()] + section + _SECTION.sub("", text[found.end() :])


def _with_tags(text: str, newline: str) -> str:
    found = _FRONT_MATTER.match(text)
    if found is None:
        head = f"---\n{_NEW_FRONT_MATTER}---\n".replace("\n", newline)
        return head + (newline + text if text else text)
    matter = found.group(1)
    values = _parsed(matter)
    if values is None:
        return text  # the Hub itself will say what is wrong with it
    tags = values.get("tags") or []
    lacking = [tag for tag in TAGS if isinstance(tags, list) and tag not in tags]
    lines = "".join(f"- {tag}{newline}" for tag in lacking)
    listed = _TAG_LIST.search(matter)
    if listed is not None:
        indent = re.match(r"[ \t]*", listed.group(1))
        lines = "".join(f"{indent.group() if indent else ''}- {tag}{newline}" for tag in lacking)
        changed = matter[: listed.end()] + lines + matter[listed.end() :]
    else:
        changed = f"{matter}tags:{newline}{lines}"
    # Only if it says what it said and the tags: there are more ways to write YAML than are known here.
    if not lacking or _parsed(changed) != {**values, "tags": [*tags, *lacking]}:
        return text
    return text[: found.start(1)] + changed + text[found.end(1) :]


class _PlainLoader(yaml.BaseLoader):
    """Takes every value as text, so that no date is none; and no aliases, which make gigabytes of a line."""

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401  (PyYAML's own)
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def _parsed(matter: str) -> Mapping[str, Any] | None:
    if len(matter) > _FRONT_MATTER_CHARACTERS or _brackets_open(matter) > _OPEN_BRACKETS:
        return None
    try:
        values = yaml.load(matter, _PlainLoader) or {}  # it makes nothing but texts  # noqa: S506  # nosec B506
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _brackets_open(matter: str) -> int:
    """How many are open at once, at most: PyYAML takes the square of that in time."""
    steps = ((char in "[{") - (char in "]}") for char in matter)
    return max(itertools.accumulate(steps, initial=0))


def _section(merge_digest: str, provenance: Provenance) -> str:
    count = len(provenance.failed_episodes)
    failed = f"{count} ({failed_text(provenance.failed_episodes)})" if count else "none"
    rows = ", ".join(f"{_code(style)} {count}" for style, count in sorted(provenance.rows_by_style.items()))
    return "\n".join(
        [
            BEGIN,
            "## Language annotations",
            "",
            "The columns `language_persistent` and `language_events` were written by annotationrun: the "
            "answers of a vision-language model that was shown the frames.",
            "",
            f"- Source: {_code(source_text(provenance))}",
            f"- Model: {_code(model_text(provenance))}",
            f"- Settings (digest): {_code(provenance.config_digest)}",
            f"- Episodes: {provenance.episodes}",
            f"- Episodes with labels: {labelled_text(provenance)}",
            f"- Episodes that failed: {failed}",
            f"- Questions without a usable answer: {provenance.questions_unanswered or 'none'}",
            *(f"  - {_code(line)}" for line in provenance.unanswered[:_SHOWN_UNANSWERED]),
            *_more_unanswered(provenance),
            f"- Rows: {rows or 'none'}",
            f"- Tokens: {provenance.prompt_tokens} of prompts, {provenance.answer_tokens} of answers",
            f"- Run: {_code(provenance.run)}, {_code(provenance.finished_at)}",
            f"- Merge digest: {_code(merge_digest)}",
            END,
            "",
        ]
    )


def _more_unanswered(provenance: Provenance) -> Iterator[str]:
    more = len(provenance.unanswered) - _SHOWN_UNANSWERED
    if more > 0:
        yield f"  - and {more} more such lines"
    if provenance.unanswered:
        yield f"  - {_code(RECORD_NAME)} lists each question with its frame, camera and cause"


def _code(text: str) -> str:
    """As a code span: no name is read as Markdown, as HTML, or as one of the marks of our section."""
    plain = one_line(text).replace("`", "'").replace("<", "\u2039").replace(">", "\u203a")
    return f"`{plain}`" if plain else "unknown"
