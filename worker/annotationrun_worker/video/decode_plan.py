"""Where to seek, and which frames to decode. Pure.

Where to start decoding, so that no frame is missed.

Which frames have to be decoded for those that are wanted, and how the work is cut: pure.

A group is a keyframe and the frames up to the next one. A wanted frame costs all frames of its group from the
keyframe on; those wanted of one group are decoded in one go. So no frame is decoded twice, none of a group of
which nothing is wanted, and none behind the last one wanted of a group. Whether a decoder seeks to a group or
reads on to it does not matter to that (``PacketReader`` reads on if it has read the keyframe already).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIRST_STEP_BACK_SECONDS = 1.0
"""How much earlier to seek when the first try landed behind the target (doubles with each try)."""


def steps_back(seconds: float) -> Iterator[float]:
    """The time itself, then ever earlier ones; the last is 0.

    Demuxers seek by DTS: where frames are reordered the keyframe found may be shown after the time asked for.
    """
    step = FIRST_STEP_BACK_SECONDS
    yield seconds
    while seconds > 0:
        seconds = max(seconds - step, 0.0)
        step *= 2
        yield seconds


SLACK_SECONDS = 1e-3
"""A time this little before a keyframe means the keyframe: timestamps are float32."""

PIECES_A_CHILD = 4
"""So many pieces for each child, if a request has the groups for it: who is done early takes one more."""

PIECE_FRAMES = 2
"""A smaller piece is not worth the way to another child."""


@dataclass(frozen=True, slots=True, eq=False)
class FileIndex:
    """What the container says of a video, without decoding it."""

    width: int
    height: int
    key_seconds: NDArray[np.float64]
    """PTS of the keyframes, rising; at least one."""
    key_numbers: NDArray[np.int64]
    """Place of each keyframe among the frames, in decoding order."""
    frame_count: int
    end_seconds: float
    """Where the last frame ends, about."""

    @property
    def size_bytes(self) -> int:
        """Of the tables."""
        return self.key_seconds.nbytes + self.key_numbers.nbytes


@dataclass(frozen=True, slots=True)
class Stretch:
    """Wanted frames that are decoded in one go, and what that costs."""

    start: int
    """First of the wanted frames."""
    stop: int
    """Behind the last of them."""
    first_group: int
    last_group: int
    frames: int
    """To decode."""


def plan_groups(index: FileIndex, targets_seconds: NDArray[np.float64]) -> list[Stretch]:
    """The groups in which something is wanted (times of PTS, rising), each with its share of the frames."""
    targets = targets_seconds + SLACK_SECONDS
    groups = np.maximum(np.searchsorted(index.key_seconds, targets, side="right") - 1, 0)
    numbers = _numbers(index, targets, groups)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    stops = np.append(starts[1:], len(targets))
    return [
        Stretch(
            start,
            stop,
            group,
            group,
            int(numbers[stop - 1] - index.key_numbers[group]) + 1,
        )
        for start, stop, group in zip(starts.tolist(), stops.tolist(), groups[starts].tolist(), strict=True)
    ]


def cut(groups: Sequence[Stretch], children: int) -> list[Stretch]:
    """Pieces of about the same cost, each of whole groups that follow each other, in order."""
    total = sum(group.frames for group in groups)
    pieces = max(min(children * PIECES_A_CHILD, total // PIECE_FRAMES, len(groups)), 1)
    cut_groups: list[list[Stretch]] = [[] for _ in range(pieces)]
    done = 0
    for group in groups:
        # Where its middle lies; what is not much smaller than a piece gets one for itself.
        cut_groups[min((2 * done + group.frames) * pieces // (2 * total), pieces - 1)].append(group)
        done += group.frames
    return [_joined(part) for part in cut_groups if part]


def shares_work(one: Stretch, other: Stretch) -> bool:
    """Whether two stretches of the same file have a group in common."""
    return one.first_group <= other.last_group and other.first_group <= one.last_group


def merge_targets(times_seconds: Sequence[NDArray[np.float64]]) -> list[tuple[int, int]]:
    """(list, number in it) of all times of several rising lists, rising together."""
    owners: Iterable[tuple[int, int]] = (
        (which, number) for which, times in enumerate(times_seconds) for number in range(len(times))
    )
    return sorted(owners, key=lambda owner: float(times_seconds[owner[0]][owner[1]]))


def _joined(groups: Sequence[Stretch]) -> Stretch:
    return Stretch(
        groups[0].start,
        groups[-1].stop,
        groups[0].first_group,
        groups[-1].last_group,
        sum(group.frames for group in groups),
    )


def _numbers(
    index: FileIndex, targets_seconds: NDArray[np.float64], groups: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Place of each wanted frame, as if the frames of a group followed each other evenly."""
    times = np.append(index.key_seconds, max(index.end_seconds, float(index.key_seconds[-1])))
    numbers = np.append(index.key_numbers, max(index.frame_count, int(index.key_numbers[-1]) + 1))
    guessed = np.floor(np.interp(targets_seconds, times, numbers)).astype(np.int64)
    clipped: NDArray[np.int64] = np.clip(guessed, numbers[groups], numbers[groups + 1] - 1)
    return clipped
