"""Where a run reads and writes: ``spec.source``, ``spec.output``, ``spec.staging``."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from annotationrun_api.schema_marks import Cel, SchemaPattern
from annotationrun_api.spec_types import (
    EffectOnly,
    Expect,
    FolderPath,
    RepoId,
    Revision,
    Rule,
    SecretKeyRef,
    SecretRef,
    SpecModel,
    StoreUri,
    VolumeClaim,
    at_most_one,
    exactly_one,
    inside_volume,
    only_with,
)

_EPISODES_EXPECTED = 'episode numbers and ranges in quotes such as "0-99,120" (both ends belong to a range)'
_EPISODES_PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
# Whether a range ascends is left to the check below: CEL over so long a text costs more than a CRD may.
_EPISODES_PATTERN = r"^\s*[0-9]{1,9}(-[0-9]{1,9})?\s*(,\s*[0-9]{1,9}(-[0-9]{1,9})?\s*)*$"


def parse_episodes(text: str) -> tuple[range, ...]:
    """Parse a selection of episodes such as ``"0-99,120"``; both ends belong to a range.

    Returns ascending ranges that neither overlap nor touch: ``"5,0-3,2-4"`` gives ``(range(0, 6),)``.

    Raises:
        ValueError: the text is no such selection, or a range ends before it starts.
    """
    ranges: list[range] = []
    for part in text.split(","):
        match = _EPISODES_PART.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{_EPISODES_EXPECTED}; {part.strip()!r} is neither")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{_EPISODES_EXPECTED}; {part.strip()!r} ends before it starts")
        ranges.append(range(first, last + 1))
    merged: list[range] = []
    for span in sorted(ranges, key=lambda span: span.start):
        if merged and span.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, span.stop))
        else:
            merged.append(span)
    return tuple(merged)


def _check_episodes(text: str) -> str:
    parse_episodes(text)
    return text


class FollowSpec(SpecModel):
    """Whether later commits to the source start the run again."""

    mode: Literal["Never", "Poll"] = Field(
        default="Never", description="mode: Never, or Poll to look for new commits. Default Never."
    )
    interval_seconds: int = Field(
        default=3600,
        ge=60,
        le=2_592_000,
        description="intervalSeconds: seconds between two looks, with mode Poll. Default 3600.",
    )


class SourceSpec(SpecModel):
    """The dataset to annotate: a repository on the Hub or a folder."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("repoID", "path"),
        only_with("volume", "path"),
        inside_volume("path"),
    )

    repo_id: RepoId | None = Field(
        default=None, description="repoID: a dataset repository on the Hub. Default null: path is used."
    )
    revision: Annotated[Revision, EffectOnly.HUB_SOURCE] = Field(
        default="main",
        description="revision: branch, tag or commit of repoID. Default main. Without meaning for path.",
    )
    path: FolderPath | None = Field(
        default=None,
        description="path: the dataset's folder, on this machine or inside volume, there without '..'."
        " Default null: repoID is used.",
    )
    volume: VolumeClaim | None = Field(
        default=None, description="volume: the claim that holds path. Default null: a folder of this machine."
    )
    episodes: (
        Annotated[
            str,
            Field(min_length=1, max_length=16_384),
            AfterValidator(_check_episodes),
            SchemaPattern(_EPISODES_PATTERN),
            Expect(_EPISODES_EXPECTED),
        ]
        | None
    ) = Field(
        default=None,
        description='episodes: the episodes to annotate, such as "0-99,120", ends included. Default'
        " null: all.",
    )
    follow: Annotated[FollowSpec, EffectOnly.CLUSTER] = Field(
        default_factory=FollowSpec, description="follow: annotate later commits too. Default {mode: Never}."
    )
    token_secret_ref: Annotated[SecretKeyRef | None, EffectOnly.HUB_SOURCE] = Field(
        default=None, description="tokenSecretRef: Hub token to read repoID. Default null: anonymous."
    )
    cache_bytes: Annotated[int, EffectOnly.HUB] = Field(
        default=32 << 30,
        ge=1 << 20,
        le=1 << 50,
        description="cacheBytes: bytes of files of repoID that a node or pod keeps; what is unused longest"
        " goes first. Default 34359738368. Without meaning for path.",
    )

    @property
    def episode_ranges(self) -> tuple[range, ...] | None:
        """The selected episodes as ascending, disjoint ranges; None selects all."""
        return None if self.episodes is None else parse_episodes(self.episodes)


class OutputSpec(SpecModel):
    """Where the annotated dataset goes: a repository on the Hub or a folder."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("repoID", "path"),
        only_with("volume", "path"),
        inside_volume("path"),
        only_with("overwrite", "path", is_flag=True),
        only_with("private", "repoID", is_flag=True),
        only_with("pullRequest", "repoID", is_flag=True),
    )

    repo_id: RepoId | None = Field(
        default=None, description="repoID: the dataset repository to push to. Default null: path is used."
    )
    branch: Annotated[Revision, EffectOnly.HUB_OUTPUT] = Field(
        default="main",
        description="branch: branch of repoID to push to. Default main. Without meaning for path.",
    )
    private: bool = Field(
        default=False,
        description="private: make repoID private when it is created. Default false.",
    )
    pull_request: bool = Field(
        default=False,
        description="pullRequest: open a pull request on the Hub instead of a push. Default false.",
    )
    path: FolderPath | None = Field(
        default=None,
        description="path: the folder to write, on this machine or inside volume, there without '..'."
        " Default null: repoID is used.",
    )
    volume: VolumeClaim | None = Field(
        default=None, description="volume: the claim that holds path. Default null: a folder of this machine."
    )
    overwrite: bool = Field(
        default=False,
        description="overwrite: write into a folder that is there already, in place. Default false:"
        " a new folder.",
    )
    existing_rows: Literal["Replace", "Keep"] = Field(
        default="Replace",
        description="existingRows: Replace or Keep the rows of the enabled modules' styles in the"
        " selected episodes."
        " Default Replace.",
    )
    token_secret_ref: Annotated[SecretKeyRef | None, EffectOnly.HUB_OUTPUT] = Field(
        default=None, description="tokenSecretRef: Hub token to push to repoID. Default null: none."
    )


FOLDER_SCHEME = "file:"
CLUSTER_STORE_EXPECTED = (
    "an object store, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix: on a cluster file://"
    " is a folder of each pod alone; set spec.staging.volume for one that they share"
)
_ClusterStoreUri = Annotated[StoreUri, Cel(f"!self.startsWith('{FOLDER_SCHEME}')", CLUSTER_STORE_EXPECTED)]


class StagingSpec(SpecModel):
    """Where answers and results are kept between commands and pods."""

    rules: ClassVar[tuple[Rule, ...]] = (
        at_most_one("uri", "volume"),
        only_with("credentialsSecretRef", "uri"),
    )

    uri: _ClusterStoreUri | None = Field(
        default=None,
        description="uri: object store (s3, gs, az) or, on one machine, a folder (file). Default null: volume"
        " is used; on one machine a folder beside the output.",
    )
    volume: VolumeClaim | None = Field(
        default=None,
        description="volume: the claim that holds the staging folder. Default null: uri is used.",
    )
    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="credentialsSecretRef: Secret with the object store's environment variables."
        " Default null: none.",
    )
    integrity_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="integritySecretRef: key of at least 32 characters that what is staged is sealed with"
        " (HMAC), so that others who may write there can plant no labels. Default null: nothing is sealed.",
    )
