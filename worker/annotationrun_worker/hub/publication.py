"""What is published to the Hub, and the message of its commit.

What is to be published to the Hub, and what came of it.

Messages of our commits, and the trailers in them by which a commit is known again.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from annotationrun_worker.hub.repository import HubFile, HubRepository

CARD_NAME: Final = "README.md"
RECORD_NAME: Final = "meta/annotationrun.json"
"""Only a merge of ours writes it."""
DATASET_FOLDERS: Final = frozenset({"data", "images", "meta", "videos"})
"""Of a LeRobot dataset: all that it is read from."""
DEFAULT_BRANCH: Final = "main"
"""Every repository of the Hub has it, and tags of versions belong to it."""


@dataclass(frozen=True, slots=True)
class HubTarget:
    """How to push."""

    branch: str = DEFAULT_BRANCH
    """Made if it is missing."""
    private: bool = False
    """Only of a repository that is made now."""
    pull_request: bool = False
    """Propose the commit, rather than push it; no tag moves."""


@dataclass(frozen=True, slots=True)
class DesiredFile:
    """A file of the dataset as it shall be."""

    size_bytes: int
    sha256: str | None = None
    """Of the content; ``None``: unknown, of a file that lies at the source only and not in LFS."""
    local: Path | None = None
    """Where its bytes lie on this machine; ``None``: only at the source."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """The commit that the dataset was merged from: what the merge read."""

    repository: HubRepository
    commit: str
    files: Mapping[str, HubFile]
    """All of the commit, by path."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the labels come from, for readers of the card and of the commit."""

    source: str
    """Repository, or what is shown of a folder."""
    source_commit: str
    """SHA; empty for a folder."""
    model: str
    model_revision: str
    """As the manifest names it: branch, tag or commit."""
    config_digest: str
    """Of the settings of all modules."""
    run: str
    finished_at: str
    """ISO 8601, UTC."""
    model_commit: str = ""
    """SHA that the revision was; empty: it is not known."""
    episodes: int = 0
    """All of the dataset."""
    labelled_episodes: Mapping[str, int] = field(default_factory=dict)
    """How many of them have labels of each module."""
    failed_episodes: Sequence[int] = ()
    """That the run was to label and could not."""
    unanswered: Sequence[str] = ()
    """Questions that got no usable answer, a line for each episode and module."""
    questions_unanswered: int = 0
    """How many these are."""
    rows_by_style: Mapping[str, int] = field(default_factory=dict)
    """All of the dataset."""
    taken_away: Sequence[str] = ()
    """Rows that the dataset had and lost by this commit, a line a style."""
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Publication:
    """A merged dataset on its way to the Hub."""

    target: HubTarget
    merge_digest: str
    files: Mapping[str, DesiredFile]
    """All of the dataset, by path; the card and hidden files are left out of account."""
    source: HubSource | None
    version_tag: str
    """``codebase_version`` of ``meta/info.json``, by which LeRobot looks for a revision: ``"v3.0"``."""
    provenance: Provenance
    base_commit: str | None = None
    """Head of the target's branch whose rows went into the dataset; empty: the branch was not there.
    ``None``: there is nothing to lose."""
    is_in_place: bool = False
    """The target's branch is the one that the source was read from: what others pushed to it since the
    source's commit must not be overwritten."""


@dataclass(frozen=True, slots=True)
class Published:
    """What stands on the Hub now."""

    commit: str
    previous_commit: str
    """The one below it, to which a rollback goes; empty where there is none."""
    pull_request: str = ""
    """Its URL, where one was asked for."""
    is_unchanged: bool = False
    """An earlier publish had made the commit."""
    uploaded_bytes: int = 0
    """Of the files in the commit that came from here; what the Hub knew already is not sent, but counts."""
    copied_files: int = 0
    """Copied on the server: none of their bytes moved."""
    tag_gap_seconds: float = 0.0
    """For which the version tag itself named nothing; see ``tags``."""
    notes: tuple[str, ...] = ()
    """What a user should know, a sentence each."""


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
