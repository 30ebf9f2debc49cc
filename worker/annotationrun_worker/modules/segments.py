"""The subtasks of an episode as spans: cleaned, and looked at again.

Cleaning the model's spans: deterministic, so the same answers give the same subtasks.

The steps, in order: drop the unusable, swap reversed ends, clamp to the window, to absolute time, sort; join
equal neighbours over a window's edge; join what is too short; join the shortest where a window has too many;
snap the starts to distinct frames; stitch the spans to cover the episode.

Seeded relabel: each subtask is looked at again, with its neighbours, its first label as strong prior.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.modules.base import EpisodeContext, LabelLine, finish_all
from annotationrun_worker.modules.prompt_media import Window, show_frames
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.video.timestamps import nearest, uniform_indices
from annotationrun_worker.vlm.messages import text_part
from annotationrun_worker.vlm.request import Question

ROUNDING_SECONDS: Final = 1.0
"""By how much a span may reach beyond its window: models round to whole seconds. It is clamped then."""


@dataclass(frozen=True, slots=True)
class RawSpan:
    """A span as the model gave it."""

    text: str
    start: float
    """Seconds from the window's zero."""
    end: float
    """Seconds from the window's zero."""


@dataclass(frozen=True, slots=True)
class Span:
    """A usable span."""

    text: str
    start_seconds: float
    """Episode time."""
    end_seconds: float
    """Episode time."""
    window: int
    """Index of the window that it came from."""
    request: Digest
    """The request whose answer it stands in."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_seconds - self.start_seconds


@dataclass(frozen=True, slots=True)
class Subtask:
    """What a span becomes: a label from one frame to the next subtask's."""

    text: str
    frame: int
    request: Digest


def lies_outside(span: RawSpan, window: Window) -> bool:
    """Whether a span with a text reaches further beyond the window than rounding can explain."""
    times = (span.start, span.end)
    return bool(span.text.strip()) and (
        min(times) < -ROUNDING_SECONDS or max(times) > window.seconds + ROUNDING_SECONDS
    )


def is_usable(span: RawSpan, window: Window) -> bool:
    """Whether a span has a text and says something of the window: one that lies outside was not seen."""
    if not span.text.strip() or not (math.isfinite(span.start) and math.isfinite(span.end)):
        return False
    start, end = sorted((span.start, span.end))
    return end >= 0 and start <= window.seconds and (start < window.seconds or window.seconds == 0)


def usable_spans(raw: Sequence[RawSpan], window: Window, index: int, request: Digest) -> list[Span]:
    """The usable spans of one window in episode time, sorted by start, then end."""
    spans = []
    for span in raw:
        if not is_usable(span, window):
            continue
        text = " ".join(span.text.split())
        start, end = sorted((span.start, span.end))
        spans.append(
            Span(
                text=text,
                start_seconds=window.zero_seconds + min(max(start, 0.0), window.seconds),
                end_seconds=window.zero_seconds + min(max(end, 0.0), window.seconds),
                window=index,
                request=request,
            )
        )
    return sorted(spans, key=lambda span: (span.start_seconds, span.end_seconds))


def _same_text(one: Span, other: Span) -> bool:
    return one.text.strip().casefold() == other.text.strip().casefold()


def _join_over_edges(spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].window != span.window and _same_text(joined[-1], span):
            joined[-1] = replace(joined[-1], end_seconds=max(joined[-1].end_seconds, span.end_seconds))
        else:
            joined.append(span)
    return joined


def _absorb(spans: list[Span], index: int) -> None:
    """Join ``spans[index]`` to the neighbour with equal text, else the previous, else the next."""
    gone = spans[index]
    neighbours = [place for place in (index - 1, index + 1) if 0 <= place < len(spans)]
    equal = [place for place in neighbours if _same_text(spans[place], gone)]
    place = (equal or neighbours)[0]
    spans[place] = replace(
        spans[place],
        start_seconds=min(spans[place].start_seconds, gone.start_seconds),
        end_seconds=max(spans[place].end_seconds, gone.end_seconds),
    )
    del spans[index]


def _absorb_while(spans: list[Span], pick: Callable[[Sequence[Span]], int | None]) -> None:
    while len(spans) > 1 and (index := pick(spans)) is not None:
        _absorb(spans, index)


def _shortest(spans: Sequence[Span], places: Sequence[int]) -> int | None:
    """The shortest of ``places``, to the millisecond so that no rounding error decides; first of equals."""
    return min(places, key=lambda place: (round(spans[place].seconds, 3), place), default=None)


def clean_spans(spans: Sequence[Span], min_seconds: float, max_per_window: int) -> list[Span]:
    """Join what is equal over an edge, too short, or too many; ``spans`` is sorted by window and start.

    A length within a rounding error of ``min_seconds`` is long enough. One span stays if all are short.
    """
    cleaned = _join_over_edges(spans)

    def too_short(now: Sequence[Span]) -> int | None:
        return _shortest(now, [i for i, span in enumerate(now) if span.seconds < min_seconds - 1e-6])

    _absorb_while(cleaned, too_short)
    for window in sorted({span.window for span in cleaned}):

        def too_many(now: Sequence[Span], window: int = window) -> int | None:
            inside = [i for i, span in enumerate(now) if span.window == window]
            return _shortest(now, inside) if len(inside) > max_per_window else None

        _absorb_while(cleaned, too_many)
    return cleaned


def to_subtasks(spans: Sequence[Span], timestamps_seconds: NDArray[np.float32]) -> list[Subtask]:
    """Snap the starts to distinct, increasing frames, the first to frame 0.

    A start whose frame is taken moves to the next one; a span that is pushed past the last frame is dropped.
    Each subtask lasts until the next one starts, the last until the episode ends, so they cover it.
    """
    subtasks: list[Subtask] = []
    starts = nearest(timestamps_seconds, [span.start_seconds for span in spans]).tolist()
    for span, start in zip(spans, starts, strict=True):
        frame = max(start, subtasks[-1].frame + 1) if subtasks else 0
        if frame < len(timestamps_seconds):
            subtasks.append(Subtask(span.text, frame, span.request))
    return subtasks


RELABEL_PROMPTS = ("label",)


class LabelAnswer(BaseModel):
    """Answer to the prompt ``label``."""

    model_config = ConfigDict(extra="forbid")
    label: LabelLine


def relabel_frames(starts: Sequence[int], frame_count: int, place: int, each: int) -> list[int]:
    """At most ``each`` frames of the subtask before ``place``, of it, and of the one after it.

    Those of a subtask are spread evenly over [its start, the next one's start), both ends included.
    """
    ends = [*starts[1:], frame_count]
    return [
        starts[near] + step
        for near in range(max(place - 1, 0), min(place + 2, len(starts)))
        for step in uniform_indices(ends[near] - starts[near], each).tolist()
    ]


async def relabel_subtasks(
    context: EpisodeContext, settings: PlanModule, camera: CameraKey, subtasks: Sequence[Subtask]
) -> list[Subtask]:
    """The same subtasks, each with the label and the request of its second look.

    Raises:
        FrameDecodeError: a frame could not be decoded.
        AnswerError: an answer stays unusable.
    """
    looks = (_relabel(context, settings, camera, subtasks, place) for place in range(len(subtasks)))
    return await finish_all(looks)


async def _relabel(
    context: EpisodeContext,
    settings: PlanModule,
    camera: CameraKey,
    subtasks: Sequence[Subtask],
    place: int,
) -> Subtask:
    frame_count = context.episode.frame_count
    starts = [subtask.frame for subtask in subtasks]
    frames = relabel_frames(starts, frame_count, place, settings.relabel_frames)
    shown = await show_frames(context, settings, camera, frames)
    end = starts[place + 1] if place + 1 < len(starts) else frame_count - 1

    def since_first(frame: int) -> str:
        return f"{shown.to_told_seconds(context.seconds(frame) - context.seconds(frames[0])):.2f}"

    text = context.prompt(
        "label",
        shown=shown.words,
        label=subtasks[place].text,
        window_seconds=since_first(frames[-1]),
        start_seconds=since_first(starts[place]),
        end_seconds=since_first(end),
    )
    label, request = await context.asker.ask(
        Question("label", [*shown.parts, text_part(text)], LabelAnswer, shown.body),
        lambda answer: answer.label,
    )
    return Subtask(label, starts[place], request)
