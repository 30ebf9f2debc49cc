"""From frames with their times to subtasks: when does what is seen change?

With a robot in view the fingers tell: wide apart they go to a block, closed or ajar they hold, place and
leave one. Without a robot but with one thing that moves, its way tells: to the left or to the right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from annotationrun_worker.demo.vision import Sight, Thing

MAX_SEGMENTS = 8
MIN_SECONDS = 1.5
"""What the prompts ask for."""


@dataclass(frozen=True, slots=True)
class TimedSight:
    """What one frame shows, and the time that stands in it, in seconds."""

    seconds: float
    sight: Sight


@dataclass(frozen=True, slots=True)
class Segment:
    """A subtask; seconds as they stand in the frames."""

    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring frames in one state."""

    text: str
    first: int
    """Place of its first frame."""


def find_segments(frames: Sequence[TimedSight]) -> list[Segment]:
    """The subtasks in ``frames``, which come in the order of time; none where nothing is recognised.

    Each starts at the time of the first frame that shows it and ends where the next one starts.
    """
    if any(frame.sight.gripper for frame in frames):
        runs = _robot_runs(frames)
    elif any(frame.sight.things for frame in frames):
        runs = _motion_runs(frames)
    else:
        return []
    ends = [frames[run.first].seconds for run in runs[1:]] + [frames[-1].seconds]
    segments = [
        Segment(run.text, frames[run.first].seconds, end) for run, end in zip(runs, ends, strict=True)
    ]
    return _merge_short(segments)


def _robot_runs(frames: Sequence[TimedSight]) -> list[_Run]:
    starts = _changes([_is_busy(frame.sight) for frame in frames])
    runs: list[_Run] = []
    for place, (first, busy) in enumerate(starts):
        end = starts[place + 1][0] if place + 1 < len(starts) else len(frames)
        seen = [frame.sight for frame in frames[first:end]]
        if busy:
            runs.append(_Run(_place_text(seen), first))
        else:
            following = frames[end].sight if end < len(frames) else None
            runs.append(_Run(_pick_text(seen, following), first))
    return runs


def _is_busy(sight: Sight) -> bool | None:
    """Whether the fingers hold a block or have just let it go; None when they are not seen."""
    return None if sight.fingers is None else sight.fingers != "wide"


def _pick_text(seen: Sequence[Sight], following: Sight | None) -> str:
    """The block that is held next, or, at the end of what is seen, the one that the gripper is nearest to."""
    block = _block_at_gripper(following) if following else None
    block = block or next((b for b in map(_block_at_gripper, reversed(seen)) if b), None)
    return f"pick up the {block.colour} block" if block else "move the gripper"


def _place_text(seen: Sequence[Sight]) -> str:
    """The block at the gripper, and the pad it stands on in the last frame."""
    for sight in reversed(seen):
        block = _block_at_gripper(sight)
        if block:
            pad = sight.pad_under(block) or sight.nearest("pad", block.centre_x)
            return f"place the {block.colour} block" + (f" on the {pad.colour} pad" if pad else "")
    return "move the gripper"


def _block_at_gripper(sight: Sight) -> Thing | None:
    return sight.nearest("block", sight.gripper.centre_x) if sight.gripper else None


def _motion_runs(frames: Sequence[TimedSight]) -> list[_Run]:
    """Runs of one direction of the largest thing; a direction holds from a frame to the next one."""
    things = [_largest(frame.sight) for frame in frames]
    directions: list[str | None] = []
    for now, then in zip(things, [*things[1:], None], strict=True):
        if now is None or then is None or now.colour != then.colour or now.centre_x == then.centre_x:
            directions.append(None)
        else:
            directions.append("right" if then.centre_x > now.centre_x else "left")
    colour = next(thing.colour for thing in things if thing)
    starts = _changes(directions)
    return [
        _Run(f"move the {colour} square to the {way}" if way else f"keep the {colour} square in place", first)
        for first, way in starts
    ]


def _largest(sight: Sight) -> Thing | None:
    return max(sight.things, key=lambda thing: thing.width * thing.height, default=None)


def _changes(states: Sequence[bool | None] | Sequence[str | None]) -> list[tuple[int, bool | str | None]]:
    """Where a new state begins, and which; an unknown one (None) goes on as the one before it."""
    known = next((state for state in states if state is not None), None)
    changes: list[tuple[int, bool | str | None]] = [(0, known)]
    for place, state in enumerate(states):
        if state is not None and state != changes[-1][1]:
            changes.append((place, state))
    return changes


def _merge_short(segments: Sequence[Segment]) -> list[Segment]:
    """Join the shortest segment to the one before it until all are long enough and few enough."""
    merged = list(segments)
    while len(merged) > 1:
        seconds = [segment.end_seconds - segment.start_seconds for segment in merged]
        shortest = seconds.index(min(seconds))
        if len(merged) <= MAX_SEGMENTS and seconds[shortest] >= MIN_SECONDS:
            break
        # the first has none before it: the one after it keeps its name and starts earlier
        keeper, other = (shortest - 1, shortest) if shortest else (1, 0)
        first, last = min(keeper, other), max(keeper, other)
        merged[first : last + 1] = [
            Segment(merged[keeper].text, merged[first].start_seconds, merged[last].end_seconds)
        ]
    return _join_equal(merged)


def _join_equal(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours with the same text are one segment."""
    joined: list[Segment] = []
    for segment in segments:
        if joined and joined[-1].text == segment.text:
            joined[-1] = Segment(segment.text, joined[-1].start_seconds, segment.end_seconds)
        else:
            joined.append(segment)
    return joined
