"""The largest prompts that a run will send, for the check of its servers before the first question.

As in ``estimate.py``, the frames and windows are the modules' own, and texts that only answers tell have
usual lengths.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from annotationrun_api.prompt_media import SUBTASKS_LOOKED_AT, frames_per_prompt
from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.dataset.episodes import EpisodeSummary
from annotationrun_worker.dataset.types import Features
from annotationrun_worker.modules.coordinates import (
    COORDINATES,
    asks_for_coordinates,
    resolve_coordinate_scale,
)
from annotationrun_worker.modules.prompt_media import SheetLayout, plan_samples, shown_words
from annotationrun_worker.pipeline.estimate import (
    ANSWER_TOKENS,
    CHARACTERS_PER_TOKEN,
    USUAL_SUBTASK,
    ForeseenEpisode,
    QuestionCosts,
)
from annotationrun_worker.vlm.request import LargeClip, LargePrompt, Sampling, ServerNeeds

_SHEETS = "spec.modules.plan.maxFramesPerPrompt or tileWidth (framesPerSheet says how many pictures they are)"
_FRAMES = "spec.modules.plan.maxFramesPerPrompt"
_CLIPS = "spec.modules.plan.maxVideoFrames"
_RELABEL = "spec.modules.plan.relabelFrames"
_INTERJECTIONS = "spec.modules.interjections.windowFrames"
_SETTINGS: Final = {"ContactSheets": _SHEETS, "Frames": _FRAMES, "VideoUrl": _CLIPS}
"""By ``spec.modules.plan.input``."""
_VQA = "the size of the videos (spec.modules.vqa shows whole frames)"


def server_needs(
    spec: RunSpec, sampling: Sampling, episodes: Sequence[EpisodeSummary], features: Features
) -> ServerNeeds:
    """What the run of ``spec`` over ``episodes`` needs of its servers; there is at least one episode."""
    costs = QuestionCosts.of(spec)
    by_length = {episode.length: episode for episode in episodes}
    prompts = [
        prompt
        for episode in by_length.values()
        for prompt in _prompts(ForeseenEpisode.of(spec, episode, features.fps, features), costs)
    ]
    largest = max(prompts, key=lambda prompt: (prompt.pixels, len(prompt.text)))
    most = max(prompts, key=lambda prompt: (len(prompt.image_sizes), prompt.pixels))
    tried = [largest] if len(most.image_sizes) <= len(largest.image_sizes) else [largest, most]
    if largest.clip is None:
        tried += sorted((prompt for prompt in prompts if prompt.clip), key=lambda prompt: prompt.pixels)[-1:]
    vqa = spec.modules.vqa
    return ServerNeeds(
        sampling=sampling,
        prompts=tried,
        coordinate_scale=resolve_coordinate_scale(spec.model, vqa)
        if vqa is not None and asks_for_coordinates(vqa)
        else None,
    )


def _prompts(episode: ForeseenEpisode, costs: QuestionCosts) -> Iterator[LargePrompt]:
    """The largest of each kind, of one episode."""
    modules = episode.spec.modules
    if modules.plan is not None:
        yield _plan(episode, costs, modules.plan)
        if modules.plan.seeded_relabel:
            yield _relabel(episode, costs, modules.plan)
    if modules.interjections is not None and modules.interjections.max_per_episode:
        count = min(modules.interjections.window_frames, len(episode.timestamps_seconds))
        values = episode.values | {"finished": USUAL_SUBTASK, "next": USUAL_SUBTASK, "seconds": "12.50"}
        text = costs.prompts.fill("interjection", values)
        yield LargePrompt([episode.size] * count, text, _INTERJECTIONS)
    if modules.vqa is not None:
        yield from _vqa(episode, costs)


def _plan(episode: ForeseenEpisode, costs: QuestionCosts, settings: PlanModule) -> LargePrompt:
    windows = episode.windows()
    count = max(len(window.frames) for window in windows)
    if episode.derives_task:
        samples = plan_samples(episode.timestamps_seconds, settings.frames_per_second)
        count = max(count, min(len(samples), frames_per_prompt(settings)))
    description = ANSWER_TOKENS["description"] * CHARACTERS_PER_TOKEN if settings.describe_first else 0
    values = episode.values | {
        "shown": shown_words(settings, count),
        "window_seconds": f"{max(window.seconds for window in windows):.2f}",
        "min_subtask_seconds": settings.min_subtask_seconds,
        "max_steps": settings.max_steps,
        "description": _words(description),
    }
    text = costs.prompts.fill("subtasks", values)
    return _large_prompt(episode, settings, count, text, _SETTINGS[settings.input])


def _relabel(episode: ForeseenEpisode, costs: QuestionCosts, settings: PlanModule) -> LargePrompt:
    count = min(SUBTASKS_LOOKED_AT * settings.relabel_frames, len(episode.timestamps_seconds))
    values = episode.values | dict.fromkeys(("window_seconds", "start_seconds", "end_seconds"), "12.50")
    values |= {"label": USUAL_SUBTASK, "shown": shown_words(settings, count)}
    return _large_prompt(episode, settings, count, costs.prompts.fill("label", values), _RELABEL)


def _vqa(episode: ForeseenEpisode, costs: QuestionCosts) -> Iterator[LargePrompt]:
    vqa = episode.spec.modules.vqa
    types = () if vqa is None else vqa.question_types
    for camera in episode.vqa_questions():
        width, height = episode.features.camera_sizes[camera]
        values = episode.values | {
            "camera": camera,
            "width": width,
            "height": height,
            "coordinates": COORDINATES["Thousandths"],
        }
        texts = [costs.prompts.fill(f"vqa_{question_type}", values) for question_type in types]
        yield LargePrompt([(width, height)], max(texts, key=len), _VQA)


def _large_prompt(
    episode: ForeseenEpisode, settings: PlanModule, frame_count: int, text: str, limits: str
) -> LargePrompt:
    """A prompt that shows so many frames as ``settings`` say; ``limits`` are the settings of its size."""
    match settings.input:
        case "ContactSheets":
            layout = SheetLayout.of(settings)
            counts = [sheet.stop - sheet.start for sheet in layout.slices(frame_count)]
            return LargePrompt([layout.sheet_size(count, *episode.size) for count in counts], text, limits)
        case "Frames":
            return LargePrompt([episode.size] * frame_count, text, limits)
        case "VideoUrl":
            clip = LargeClip(episode.size, frame_count, settings.frames_per_second)
            return LargePrompt([], text, limits, clip)


def _words(characters: int) -> str:
    """English text of about so many characters."""
    return (f"{USUAL_SUBTASK}. " * (characters // len(USUAL_SUBTASK)))[:characters]
