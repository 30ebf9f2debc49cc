"""A run on one machine, from the manifest to the annotated folder."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotationrun_api.spec import RunSpec
from annotationrun_worker.dataset.episodes import (
    EpisodeSummary,
    list_episodes,
    read_episode,
    select_episodes,
)
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.dataset.records import EpisodeIndex, EpisodeRecord
from annotationrun_worker.frames.fingerprint import episode_fingerprint
from annotationrun_worker.frames.provider import VideoFrameProvider
from annotationrun_worker.run.modules import Module
from annotationrun_worker.staging.digests import Digest


@dataclass(frozen=True, slots=True)
class LocalEpisodes:
    """Episodes of a dataset in a folder."""

    root: Path
    info: Mapping[str, Any]
    summaries: Mapping[EpisodeIndex, EpisodeSummary]
    modules: Sequence[Module]
    frames: VideoFrameProvider

    def read(self, index: EpisodeIndex) -> EpisodeRecord:
        """The episode, with the videos that any module looks at."""
        cameras = sorted({camera for module in self.modules for camera in module.cameras})
        return read_episode(self.root, self.info, self.summaries[index], cameras)

    def fingerprint(self, episode: EpisodeRecord, module: Module) -> Digest:
        """Digest of timestamps, task and the packets of the cameras that ``module`` looks at."""
        return Digest(episode_fingerprint(episode, module.cameras, self.frames.packet_digest))
