"""Rules over the frames that the language rows stand on. Pure."""

from collections.abc import Iterator

import numpy as np

from annotationrun_worker.merge.existing import AnnotatedEpisode
from annotationrun_worker.validate.problem import Problem


def frame_problems(episode: AnnotatedEpisode) -> Iterator[Problem]:
    """Check the frames themselves: numbered from 0, times finite and rising."""
    index = episode.index
    wrong = np.flatnonzero(episode.frame_indices != np.arange(len(episode.frame_indices)))
    if len(wrong):
        row = int(wrong[0])
        yield Problem(
            "frames", f"frame_index is {episode.frame_indices[row]}, expected {row}", episode=index, frame=row
        )
    times = episode.timestamps_seconds
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        yield Problem("frames", f"timestamp is {times[bad[0]]}", episode=index, frame=int(bad[0]))
        return
    stuck = np.flatnonzero(np.diff(times) <= 0)
    if len(stuck):
        frame = int(stuck[0]) + 1
        yield Problem(
            "frames", f"timestamp {times[frame]} s follows {times[frame - 1]} s", episode=index, frame=frame
        )
