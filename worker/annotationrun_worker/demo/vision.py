"""What the demo model sees in frames, and when it changes.

What the demo model sees: coloured things in the pixels of one frame, of any size.

Colours are strong and things have simple outlines, so a thing is the largest connected run of one hue:
about as high as wide and full, it is a block; wide and flat, a pad; a bar with two fingers, the gripper.

From frames with their times to subtasks: when does what is seen change?

With a robot in view the fingers tell: wide apart they go to a block, closed or ajar they hold, place and
leave one. Without a robot but with one thing that moves, its way tells: to the left or to the right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

HUES = ("red", "yellow", "green", "cyan", "blue", "pink")
"""Hue 0, 60, ... 300 degrees."""
_MIN_CHROMA = 90
"""Largest minus smallest of R, G, B that makes a pixel coloured; walls and tables stay under 60."""
_MIN_AREA = 0.0012
"""Smallest thing, as a part of the image's area."""
_SOFT_EDGE = 1 / 160
"""Width of the blurred seam between two colours, as a part of the image's width; it has hues of its own."""

Shape = Literal["block", "pad", "gripper", "other"]
Fingers = Literal["closed", "ajar", "wide"]


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured thing."""

    colour: str
    shape: Shape
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the image."""

    @property
    def centre_x(self) -> float:
        """Middle in pixels from the left."""
        return (self.box[0] + self.box[2]) / 2

    @property
    def centre_y(self) -> float:
        """Middle in pixels from the top."""
        return (self.box[1] + self.box[3]) / 2

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.box[3] - self.box[1]


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen in one frame."""

    width: int
    height: int
    things: tuple[Thing, ...]
    brightness: float
    """Mean grey level, 0 to 255."""

    def of_shape(self, shape: Shape) -> tuple[Thing, ...]:
        """The things of one shape, from left to right."""
        return tuple(sorted((t for t in self.things if t.shape == shape), key=lambda t: t.centre_x))

    @property
    def gripper(self) -> Thing | None:
        """The gripper, if it is seen."""
        return next(iter(self.of_shape("gripper")), None)

    @property
    def fingers(self) -> Fingers | None:
        """How the gripper holds its fingers: its outline is 1.4, 1.8 or 2.2 times as wide as high."""
        gripper = self.gripper
        if gripper is None:
            return None
        ratio = gripper.width / gripper.height
        return "closed" if ratio < 1.6 else "ajar" if ratio < 2.02 else "wide"

    @property
    def held(self) -> Thing | None:
        """The block between closed fingers."""
        if self.gripper is None or self.fingers != "closed":
            return None
        nearest = self.nearest("block", self.gripper.centre_x)
        if nearest is None or abs(nearest.centre_x - self.gripper.centre_x) > nearest.width / 4:
            return None
        return nearest

    def nearest(self, shape: Shape, x: float) -> Thing | None:
        """The thing of a shape whose middle is nearest to column ``x``."""
        return min(self.of_shape(shape), key=lambda t: abs(t.centre_x - x), default=None)

    def pad_under(self, block: Thing) -> Thing | None:
        """The pad that ``block`` stands on; a block that is held stands on none."""
        pad = self.nearest("pad", block.centre_x)
        if pad is None or block == self.held or abs(pad.centre_x - block.centre_x) > pad.width / 2:
            return None
        return pad if abs(pad.box[1] - block.box[3]) < block.height / 5 else None

    def name(self, thing: Thing) -> str:
        """What to call it: ``red block``, ``blue pad``, ``gripper``; ``red square`` where no robot is."""
        if self.gripper is None or thing.shape == "other":
            return f"{thing.colour} square"
        return "gripper" if thing.shape == "gripper" else f"{thing.colour} {thing.shape}"


def look(picture: NDArray[np.uint8]) -> Sight:
    """See the things in ``picture``: uint8 of shape (height, width, 3), RGB."""
    height, width = picture.shape[:2]
    hues = _hue_numbers(picture)
    things = []
    for number, colour in enumerate(HUES):
        mask = hues == number
        if mask.sum() >= _MIN_AREA * mask.size:
            mask = _without_seams(mask)
        if mask.sum() >= _MIN_AREA * mask.size:
            things.append(_thing(colour, mask))
    return Sight(width, height, tuple(things), float(picture.mean()))


def _hue_numbers(picture: NDArray[np.uint8]) -> NDArray[np.int8]:
    """For each pixel the number of its hue in HUES, -1 where it has none to speak of."""
    rgb = picture.astype(np.int16)
    low, high = rgb.min(-1), rgb.max(-1)
    chroma = high - low
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    divisor = np.maximum(chroma, 1)
    # https://en.wikipedia.org/wiki/HSL_and_HSV#Hue_and_chroma, in sixths of the circle
    sixths = np.where(
        high == r, (g - b) / divisor, np.where(high == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor)
    )
    numbers: NDArray[np.int8] = np.rint(sixths).astype(np.int8) % np.int8(6)
    numbers[chroma < _MIN_CHROMA] = -1
    return numbers


def _without_seams(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop what is thinner than a seam between colours (a morphological opening)."""
    size = 2 * round(mask.shape[1] * _SOFT_EDGE) + 1
    eroded = ~_grown(~mask, size)
    return _grown(eroded, size)


def _grown(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """True wherever a square of ``size`` pixels (odd) around the pixel has a True."""
    for axis in (0, 1):
        grown = mask.copy()
        for shift in range(1, size // 2 + 1):
            grown |= np.roll(mask, shift, axis) | np.roll(mask, -shift, axis)
        mask = grown
    return mask


def _thing(colour: str, mask: NDArray[np.bool_]) -> Thing:
    left, right = _longest_run(np.any(mask, axis=0))
    top, bottom = _longest_run(np.any(mask[:, left:right], axis=1))
    left, right = (left + edge for edge in _longest_run(np.any(mask[top:bottom, left:right], axis=0)))
    fullness = float(mask[top:bottom, left:right].mean())
    return Thing(colour, _shape((right - left) / (bottom - top), fullness), (left, top, right, bottom))


def _longest_run(marks: NDArray[np.bool_]) -> tuple[int, int]:
    """Start and end (exclusive) of the longest run of True."""
    steps = np.flatnonzero(np.diff(np.concatenate(([0], marks.astype(np.int8), [0]))))
    starts, ends = steps[::2], steps[1::2]
    longest = int((ends - starts).argmax())
    return int(starts[longest]), int(ends[longest])


def _shape(width_by_height: float, fullness: float) -> Shape:
    if fullness < 0.8:
        return "gripper" if 1.1 < width_by_height < 2.8 else "other"
    if 0.7 < width_by_height < 1.4:
        return "block"
    return "pad" if width_by_height > 2.8 else "other"


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
