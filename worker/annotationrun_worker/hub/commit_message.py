"""Messages of our commits, and the trailers in them by which a commit is known again."""

import re
from collections.abc import Iterable
from typing import Final

from annotationrun_worker.hub.publication import Provenance

DIGEST_TRAILER: Final = "Annotationrun-Merge-Digest"
SOURCE_TRAILER: Final = "Annotationrun-Source"

_DIGEST_LINE: Final = re.compile(rf"^{DIGEST_TRAILER}: ([0-9a-f]{{64}})\s*$", re.MULTILINE)
_SHORT: Final = 12  # hex digits of the digest in a title
_SHOWN_FAILED: Final = 50


def commit_title(merge_digest: str) -> str:
    """One line, also that of a pull request."""
    return f"Language annotations (annotationrun {merge_digest[:_SHORT]})"


def commit_body(merge_digest: str, provenance: Provenance) -> str:
    """Everything below the title: provenance in words, then the trailers.

    https://git-scm.com/docs/git-interpret-trailers
    """
    failed = failed_text(provenance.failed_episodes) or "none"
    rows = ", ".join(f"{style} {count}" for style, count in sorted(provenance.rows_by_style.items()))
    lines = (
        f"Source: {source_text(provenance)}",
        f"Model: {model_text(provenance)}",
        f"Settings: {provenance.config_digest}",
        f"Episodes: {provenance.episodes}; with labels: {labelled_text(provenance)}; failed: {failed}",
        f"Questions without a usable answer: {provenance.questions_unanswered or 'none'}",
        f"Rows: {rows or 'none'}",
        *(f"Taken away: {line}" for line in provenance.taken_away),
        f"Tokens: {provenance.prompt_tokens} of prompts, {provenance.answer_tokens} of answers",
        f"Run: {provenance.run}, {provenance.finished_at}",
    )
    trailers = (
        f"{DIGEST_TRAILER}: {merge_digest}",
        f"{SOURCE_TRAILER}: {provenance.source}@{provenance.source_commit}",
    )
    # A name with line ends in it could else pass for a trailer.
    return "\n".join([*map(one_line, lines), "", *map(one_line, trailers)])


def digests_in(message: str) -> list[str]:
    """The merge digests that a commit's message names: several, where a pull request was squashed."""
    return _DIGEST_LINE.findall(message)


def source_text(provenance: Provenance) -> str:
    """Source and commit."""
    return (
        f"{provenance.source}@{provenance.source_commit}" if provenance.source_commit else provenance.source
    )


def model_text(provenance: Provenance) -> str:
    """Model, revision, and the commit that it was."""
    commit = provenance.model_commit
    is_named = commit in {"", provenance.model_revision}
    named = (
        f"{provenance.model}@{provenance.model_revision}" if provenance.model_revision else provenance.model
    )
    return named if is_named else f"{named}, commit {commit}"


def labelled_text(provenance: Provenance) -> str:
    """``plan 6, vqa 4``: how many episodes have labels of each module."""
    labelled = sorted(provenance.labelled_episodes.items())
    return ", ".join(f"{module} {count}" for module, count in labelled) or "none"


def failed_text(episodes: Iterable[int]) -> str:
    """``"3, 17"``; of many the first ones and how many more."""
    found = sorted(episodes)
    shown = ", ".join(str(episode) for episode in found[:_SHOWN_FAILED])
    more = len(found) - _SHOWN_FAILED
    return f"{shown} and {more} more" if more > 0 else shown


def one_line(text: str) -> str:
    """Without line ends and other control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
