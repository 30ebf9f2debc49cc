"""What a run will ask, before anything is asked.

An episode as far as its metadata tell: when its frames are taken, and what will likely come of it.

What a question costs: one request, its pictures, the tokens of its prompt and of its answer.

Rough rules: English text, answers of usual length without thinking, pictures as models of the Qwen-VL family
count them (``vlm/image_tokens.py``).

What a run will ask, before anything is asked: requests, pictures and tokens, from lengths and settings.

Frames, windows, sheets and questions are counted as the modules themselves count them, with the episode's
frames taken to lie at ``n / fps``. Assumed is what only the answers tell:

- a subtask lasts ``SECONDS_PER_SUBTASK``, within the bounds that the plan module sets; memory, relabel and
  interjections depend on it. Without the plan module interjections build on rows that the dataset has: the
  same number is assumed of those;
- text, answers and pictures have the tokens that ``question_costs.py`` says;
- every first answer is usable, nothing is staged, and with ``existingRows: Keep`` no episode has rows.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from annotationrun_api.prompt_media import frames_per_prompt
from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.dataset.episodes import EpisodeSummary
from annotationrun_worker.dataset.types import CameraKey, Features
from annotationrun_worker.errors import UnknownCameraError
from annotationrun_worker.language.rows import ResultName
from annotationrun_worker.modules import coordinates as coordinate_probe
from annotationrun_worker.modules.base import NO_TASK, Prompts, SubtaskStart, make_prompts
from annotationrun_worker.modules.coordinates import COORDINATES, asks_for_coordinates
from annotationrun_worker.modules.interjections import find_boundaries, window_frames
from annotationrun_worker.modules.prompt_media import (
    SheetLayout,
    Window,
    plan_samples,
    shown_words,
    split_windows,
    vqa_frames,
)
from annotationrun_worker.modules.segments import relabel_frames
from annotationrun_worker.modules.task import has_to_derive, variants_prompt
from annotationrun_worker.video.protocol import raise_no_cameras
from annotationrun_worker.video.timestamps import nearest
from annotationrun_worker.vlm.messages import VisionGrid, vision_grid

SECONDS_PER_SUBTASK: Final = 3.0
"""Short, as tasks of a robot arm go: rather some requests too many than a budget that does not hold."""

USUAL_TASK = "Put the red cup on the tray"
USUAL_SUBTASK = "pick up the red cup"
USUAL_MEMORY = "I picked up the red cup from the table and put it on the tray."
"""Texts of usual length, in place of those that the model will write."""


@dataclass(frozen=True, slots=True)
class ForeseenEpisode:
    """An episode as far as its metadata tell."""

    spec: RunSpec
    features: Features
    own_task: str
    timestamps_seconds: NDArray[np.float32]
    cameras: Sequence[CameraKey]
    """The default one first."""

    @classmethod
    def of(cls, spec: RunSpec, episode: EpisodeSummary, fps: float, features: Features) -> Self:
        """What the metadata of ``episode`` tell of it.

        Raises:
            NoCamerasError, UnknownCameraError: there is nothing to look at.
        """
        timestamps = (np.arange(episode.length) / fps).astype(np.float32)
        return cls(spec, features, episode.task, timestamps, all_cameras(spec, features))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the default camera."""
        return self.features.camera_sizes[self.cameras[0]]

    @property
    def derives_task(self) -> bool:
        """Whether the model is asked for the task."""
        plan = self.spec.modules.plan
        return plan is not None and has_to_derive(self.own_task, plan)

    @property
    def task(self) -> str:
        """The effective one; a usual one where it is to be derived."""
        return USUAL_TASK if self.derives_task else self.own_task.strip()

    @property
    def values(self) -> dict[str, object]:
        """What all prompts of the episode are filled with."""
        return {"task": self.task or NO_TASK}

    @property
    def plan(self) -> PlanModule:
        """Settings by which there are subtasks: the default ones where the dataset's rows are built on."""
        return self.spec.modules.plan or PlanModule()

    def windows(self) -> list[Window]:
        """Those of the plan module."""
        samples = plan_samples(self.timestamps_seconds, self.plan.frames_per_second)
        return split_windows(samples, self.timestamps_seconds, frames_per_prompt(self.plan))

    def subtasks(self, windows: Sequence[Window]) -> list[SubtaskStart]:
        """As many as are assumed, spread evenly over their windows."""
        starts = [
            window.zero_seconds + place * window.seconds / count
            for window in windows
            for count in [subtask_count(window, self.plan)]
            for place in range(count)
        ]
        frames = sorted(set(nearest(self.timestamps_seconds, starts).tolist()))
        return [SubtaskStart(frame, USUAL_SUBTASK) for frame in frames]

    def interjections(self, windows: Sequence[Window]) -> list[int]:
        """Frames of the boundaries at which somebody may speak, the first of those there are."""
        settings = self.spec.modules.interjections
        if settings is None:
            return []
        found = find_boundaries(self.subtasks(windows), self.timestamps_seconds, settings.min_time_seconds)
        return [boundary.frame for boundary in found[: settings.max_per_episode]]

    def vqa_questions(self) -> Mapping[CameraKey, int]:
        """How many each camera gets."""
        settings = self.spec.modules.vqa
        if settings is None:
            return {}
        frames = vqa_frames(self.timestamps_seconds, settings.emission_hz, settings.frames_per_tick)
        return {camera: len(frames) for camera in self.cameras[: None if settings.cameras == "All" else 1]}


def subtask_count(window: Window, settings: PlanModule) -> int:
    """How many subtasks are assumed in a window."""
    count = min(round(window.seconds / SECONDS_PER_SUBTASK), settings.max_steps)
    if settings.min_subtask_seconds > 0:
        count = min(count, math.floor(window.seconds / settings.min_subtask_seconds))
    return max(1, count)


def cameras_looked_at(spec: RunSpec, features: Features) -> tuple[CameraKey, ...]:
    """The cameras that a module of the run looks at, the default one first.

    Raises:
        NoCamerasError, UnknownCameraError: there is nothing to look at.
    """
    vqa = spec.modules.vqa
    return all_cameras(spec, features)[: None if vqa is not None and vqa.cameras == "All" else 1]


def all_cameras(spec: RunSpec, features: Features) -> tuple[CameraKey, ...]:
    """All cameras, the default one first.

    Raises:
        NoCamerasError, UnknownCameraError: there is nothing to look at.
    """
    if not features.cameras:
        raise_no_cameras()
    default = CameraKey(spec.frames.default_camera or features.cameras[0])
    if default not in features.cameras:
        raise UnknownCameraError(
            f"the dataset has no camera {default!r}; its cameras are {list(features.cameras)}; correct "
            "spec.frames.defaultCamera"
        )
    return default, *(camera for camera in features.cameras if camera != default)


CHARACTERS_PER_TOKEN: Final = 4
"""Of English text; other languages and scripts need more tokens."""
TEMPLATE_TOKENS: Final = 20
"""What the chat template puts around a request."""
TIME_TOKENS: Final = 6
"""The time before a frame that is shown alone, such as ``12.50 s``."""

ANSWER_TOKENS: Final[Mapping[str, int]] = {
    "coordinate_probe": 130,
    "description": 150,
    "interjection": 45,
    "label": 15,
    "memory": 45,
    "speech": 20,
    "task": 20,
    "vqa_attribute": 45,
    "vqa_bbox": 130,
    "vqa_count": 40,
    "vqa_keypoint": 55,
    "vqa_spatial": 40,
}
"""Answers of usual length, by kind of question."""
SUBTASK_TOKENS: Final = 25
"""One subtask in the answer to ``subtasks``."""
VARIANT_TOKENS: Final = 15
"""One variant in the answer to ``rephrasings`` and ``task_axes``."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is asked, and what it costs."""

    requests: int = 0
    images: int = 0
    """Pictures sent; a clip counts as one."""
    prompt_tokens: int = 0
    """Text and pictures."""
    answer_tokens: int = 0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(
            self.requests + other.requests,
            self.images + other.images,
            self.prompt_tokens + other.prompt_tokens,
            self.answer_tokens + other.answer_tokens,
        )

    def __mul__(self, times: int) -> "Estimate":
        return Estimate(
            self.requests * times,
            self.images * times,
            self.prompt_tokens * times,
            self.answer_tokens * times,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """Pictures in a request."""

    images: int = 0
    tokens: int = 0
    words: str = ""


@dataclass(frozen=True, slots=True)
class QuestionCosts:
    """How the questions of a run are put, and what they cost."""

    prompts: Prompts
    grid: VisionGrid
    max_answer_tokens: int

    @classmethod
    def of(cls, spec: RunSpec) -> Self:
        """As ``spec`` says; raises ConfigurationError where a prompt of it can't be used."""
        prompts = make_prompts(spec.prompts, spec.output_language)
        return cls(prompts, vision_grid(spec.model.id), spec.model.max_output_tokens)

    def question(
        self,
        kind: str,
        values: Mapping[str, object],
        seen: Seen | None = None,
        answer_tokens: int | None = None,
    ) -> Estimate:
        """One request: the prompt ``kind`` filled with ``values``, and what it shows."""
        seen = seen or Seen()
        text = self.prompts.fill(kind, {"shown": seen.words, **values})
        tokens = math.ceil(len(text) / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS + seen.tokens
        answered = ANSWER_TOKENS[kind] if answer_tokens is None else answer_tokens
        return Estimate(1, seen.images, tokens, min(answered, self.max_answer_tokens))

    def shown(self, settings: PlanModule, size: tuple[int, int], frame_count: int) -> Seen:
        """``frame_count`` frames of ``size`` (width, height) as the plan module shows them."""
        words = shown_words(settings, frame_count)
        match settings.input:
            case "ContactSheets":
                layout = SheetLayout.of(settings)
                counts = [sheet.stop - sheet.start for sheet in layout.slices(frame_count)]
                sheets = [self.grid.image_tokens(*layout.sheet_size(count, *size)) for count in counts]
                return Seen(len(sheets), sum(sheets), words)
            case "Frames":
                return replace(self.timed_frames(size, frame_count), words=words)
            case "VideoUrl":
                return Seen(1, self.grid.clip_tokens(*size, frame_count), words)

    def timed_frames(self, size: tuple[int, int], frame_count: int) -> Seen:
        """``frame_count`` frames one by one, each after its time."""
        return Seen(frame_count, frame_count * (self.grid.image_tokens(*size) + TIME_TOKENS))


__all__ = ["Estimate", "estimate_episode", "estimate_run", "requests_at_once"]


class _Part(NamedTuple):
    """Some of an episode's requests."""

    module: ResultName
    estimate: Estimate
    shared: tuple[str, str] | None = None
    """Kind and task of a question made from the task's text alone: a run asks it once."""


def estimate_episode(
    spec: RunSpec, episode: EpisodeSummary, fps: float, features: Features
) -> Mapping[ResultName, Estimate]:
    """What each enabled module asks about ``episode``, were it the only one; ``task`` where one is derived.

    Raises:
        NoCamerasError, UnknownCameraError: there is nothing to look at.
        ConfigurationError: a prompt of ``spec`` can't be used.
    """
    return _summed(_parts(ForeseenEpisode.of(spec, episode, fps, features), QuestionCosts.of(spec)))


def estimate_run(
    spec: RunSpec,
    episodes: Iterable[EpisodeSummary],
    features: Features,
    is_missing: Callable[[EpisodeSummary, ResultName], bool] = lambda episode, name: True,
) -> Mapping[ResultName, Estimate]:
    """What each enabled module asks about ``episodes``; results that are not missing are left out.

    It is less than the sum over the episodes: what is asked about the task's text alone is asked once for
    each task. The check of coordinates before the first box counts to ``vqa``.

    Raises:
        NoCamerasError, UnknownCameraError: there is nothing to look at.
        ConfigurationError: a prompt of ``spec`` can't be used.
    """
    costs = QuestionCosts.of(spec)
    asked: set[tuple[str, str]] = set()

    def parts() -> Iterator[_Part]:
        for episode in episodes:
            for part in _parts(ForeseenEpisode.of(spec, episode, features.fps, features), costs):
                if part.shared in asked or not is_missing(episode, part.module):
                    continue
                if part.shared is not None:
                    asked.add(part.shared)
                yield part

    found = _summed(parts())
    vqa = spec.modules.vqa
    if vqa is not None and "vqa" in found and asks_for_coordinates(vqa):
        cameras = cameras_looked_at(spec, features)
        for size in dict.fromkeys(features.camera_sizes[camera] for camera in cameras):
            found["vqa"] += _probe(costs, size)
    return found


def requests_at_once(spec: RunSpec, episode: EpisodeSummary, fps: float, features: Features) -> int:
    """How many requests about ``episode`` wait for no other one, at most at a time.

    All questions of the vqa module do, though it looks at some frames only at a time; a window of the plan
    module is a chain, and so is memory. Interjections come after the plan module, and beside vqa.

    Raises:
        NoCamerasError, UnknownCameraError: there is nothing to look at.
    """
    known = ForeseenEpisode.of(spec, episode, fps, features)
    modules, windows = spec.modules, known.windows()
    planning = speaking = 0
    if modules.plan is not None:
        looks = len(known.subtasks(windows)) if modules.plan.seeded_relabel else 1
        planning = max(len(windows), looks) + (variants_prompt(known.task, modules.plan) is not None)
    if modules.interjections is not None:
        speaking = 1 + len(known.interjections(windows))
    return max(planning, speaking) + sum(known.vqa_questions().values())


def _summed(parts: Iterable[_Part]) -> dict[ResultName, Estimate]:
    found: dict[ResultName, Estimate] = {}
    for part in parts:
        found[part.module] = found.get(part.module, Estimate()) + part.estimate
    return found


def _parts(episode: ForeseenEpisode, costs: QuestionCosts) -> Iterator[_Part]:
    """All requests of an episode, the modules in the order in which they build on each other."""
    windows = episode.windows()
    if episode.spec.modules.plan is not None:
        yield from _plan_parts(episode, costs, windows)
    if episode.spec.modules.interjections is not None:
        yield from _interjection_parts(episode, costs, windows)
    if episode.spec.modules.vqa is not None:
        yield _Part("vqa", _vqa(episode, costs))


def _plan_parts(episode: ForeseenEpisode, costs: QuestionCosts, windows: Sequence[Window]) -> Iterator[_Part]:
    settings = episode.plan
    if episode.derives_task:
        samples = sum(len(window.frames) for window in windows)
        seen = costs.shown(settings, episode.size, min(samples, frames_per_prompt(settings)))
        yield _Part("task", costs.question("task", {}, seen))
    variants = variants_prompt(episode.task, settings)
    if variants is not None:
        kind, counts = variants
        tokens = VARIANT_TOKENS * sum(counts.values())
        asked = costs.question(kind, episode.values | counts, answer_tokens=tokens)
        yield _Part("plan", asked, None if episode.derives_task else (kind, episode.task))
    for window in windows:
        yield _Part("plan", _window(episode, costs, window))
    subtasks = episode.subtasks(windows)
    if settings.seeded_relabel:
        for place in range(len(subtasks)):
            yield _Part("plan", _label(episode, costs, subtasks, place))
    if settings.emit_memory and len(subtasks) > 1:
        values = episode.values | {"finished": USUAL_SUBTASK, "memory": USUAL_MEMORY}
        yield _Part("plan", costs.question("memory", values) * (len(subtasks) - 1))


def _window(episode: ForeseenEpisode, costs: QuestionCosts, window: Window) -> Estimate:
    settings = episode.plan
    seen = costs.shown(settings, episode.size, len(window.frames))
    values = episode.values | {
        "window_seconds": f"{window.seconds:.2f}",
        "min_subtask_seconds": settings.min_subtask_seconds,
        "max_steps": settings.max_steps,
        "description": "",
    }
    found = Estimate()
    if settings.describe_first:
        found = costs.question("description", values, seen)
        values["description"] = "." * (found.answer_tokens * CHARACTERS_PER_TOKEN)
    tokens = SUBTASK_TOKENS * subtask_count(window, settings)
    return found + costs.question("subtasks", values, seen, tokens)


def _label(
    episode: ForeseenEpisode, costs: QuestionCosts, subtasks: Sequence[SubtaskStart], place: int
) -> Estimate:
    starts = [subtask.frame for subtask in subtasks]
    frame_count = len(episode.timestamps_seconds)
    frames = relabel_frames(starts, frame_count, place, episode.plan.relabel_frames)
    values = episode.values | dict.fromkeys(("window_seconds", "start_seconds", "end_seconds"), "12.50")
    seen = costs.shown(episode.plan, episode.size, len(frames))
    return costs.question("label", values | {"label": USUAL_SUBTASK}, seen)


def _interjection_parts(
    episode: ForeseenEpisode, costs: QuestionCosts, windows: Sequence[Window]
) -> Iterator[_Part]:
    shared = None if episode.derives_task else ("speech", episode.task)
    yield _Part("interjections", costs.question("speech", episode.values), shared)
    settings = episode.spec.modules.interjections
    if settings is None:
        return
    for frame in episode.interjections(windows):
        shown = window_frames(
            episode.timestamps_seconds, frame, settings.window_seconds, settings.window_frames
        )
        seen = costs.timed_frames(episode.size, len(shown))
        values = episode.values | {"finished": USUAL_SUBTASK, "next": USUAL_SUBTASK, "seconds": "12.50"}
        yield _Part("interjections", costs.question("interjection", values, seen))


def _vqa(episode: ForeseenEpisode, costs: QuestionCosts) -> Estimate:
    settings = episode.spec.modules.vqa
    types = () if settings is None else settings.question_types
    found = Estimate()
    for camera, count in episode.vqa_questions().items():
        width, height = episode.features.camera_sizes[camera]
        seen = Seen(1, costs.grid.image_tokens(width, height))
        values = episode.values | {
            "camera": camera,
            "width": width,
            "height": height,
            "coordinates": COORDINATES["Pixels"],
        }
        each = [costs.question(f"vqa_{question_type}", values, seen) for question_type in types]
        # one type is drawn for each frame, all with equal chances
        prompt = sum(asked.prompt_tokens for asked in each) / len(each)
        answer = sum(asked.answer_tokens for asked in each) / len(each)
        found += Estimate(count, count, round(count * prompt), round(count * answer))
    return found


def _probe(costs: QuestionCosts, size: tuple[int, int]) -> Estimate:
    values = coordinate_probe.probe_values(size, "Pixels")
    return costs.question(coordinate_probe.PROMPT, values, Seen(1, costs.grid.image_tokens(*size)))
