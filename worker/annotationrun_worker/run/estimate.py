"""What a run will ask, before anything is asked: requests, pictures and tokens, from lengths and settings.

Frames, windows, sheets and questions are counted as the modules themselves count them, with the episode's
frames taken to lie at ``n / fps``. Assumed is what only the answers tell:

- a subtask lasts ``SECONDS_PER_SUBTASK``, within the bounds that the plan module sets; memory, relabel and
  interjections depend on it. Without the plan module interjections build on rows that the dataset has: the
  same number is assumed of those;
- text, answers and pictures have the tokens that ``question_costs.py`` says;
- every first answer is usable, nothing is staged, and with ``existingRows: Keep`` no episode has rows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from annotationrun_api.prompt_media import frames_per_prompt
from annotationrun_api.spec import RunSpec
from annotationrun_worker.annotate import coordinate_probe
from annotationrun_worker.annotate.context import SubtaskStart
from annotationrun_worker.annotate.coordinate_scale import COORDINATES, asks_for_coordinates
from annotationrun_worker.annotate.interjections import window_frames
from annotationrun_worker.annotate.relabel import relabel_frames
from annotationrun_worker.annotate.sampling import Window
from annotationrun_worker.annotate.task_variants import variants_prompt
from annotationrun_worker.dataset.episodes import EpisodeSummary
from annotationrun_worker.dataset.records import Features
from annotationrun_worker.rows import ResultName
from annotationrun_worker.run.foreseen_episode import (
    USUAL_MEMORY,
    USUAL_SUBTASK,
    ForeseenEpisode,
    cameras_looked_at,
    subtask_count,
)
from annotationrun_worker.run.question_costs import (
    CHARACTERS_PER_TOKEN,
    SUBTASK_TOKENS,
    VARIANT_TOKENS,
    Estimate,
    QuestionCosts,
    Seen,
)

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
