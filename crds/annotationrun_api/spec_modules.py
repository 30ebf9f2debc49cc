"""The annotation modules: ``spec.modules``. A module that is not named is off; ``{}`` switches it on."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from annotationrun_api.schema_marks import Cel
from annotationrun_api.spec_types import Expect, Rule, SpecModel

QuestionType = Literal["bbox", "keypoint", "count", "attribute", "spatial"]
_QUESTION_TYPES: tuple[QuestionType, ...] = ("bbox", "keypoint", "count", "attribute", "spatial")


def _check_distinct(types: tuple[QuestionType, ...]) -> tuple[QuestionType, ...]:
    if len(set(types)) < len(types):
        raise ValueError(f"each question type once, out of {', '.join(_QUESTION_TYPES)}")
    return types


class TaskAxes(SpecModel):
    """How many variants of the task each axis gives; an axis whose element the task lacks gives none."""

    synonym_paraphrase: int = Field(
        default=3, ge=0, le=20, description="synonymParaphrase: variants in other words. Default 3. 0: none."
    )
    omit_arm: int = Field(
        default=3, ge=0, le=20, description="omitArm: variants that do not name the arm. Default 3. 0: none."
    )
    omit_orientation: int = Field(
        default=2,
        ge=0,
        le=20,
        description="omitOrientation: variants without orientation. Default 2. 0: none.",
    )
    omit_grasp_method: int = Field(
        default=2,
        ge=0,
        le=20,
        description="omitGraspMethod: variants without the way to grasp. Default 2. 0: none.",
    )
    combined_omissions: int = Field(
        default=2,
        ge=0,
        le=20,
        description="combinedOmissions: variants that omit several. Default 2. 0: none.",
    )


class PlanModule(SpecModel):
    """Subtasks, plan, memory and task variants of an episode (persistent rows)."""

    input: Literal["ContactSheets", "Frames", "VideoUrl"] = Field(
        default="ContactSheets",
        description="input: how the model sees the episode: ContactSheets, Frames or VideoUrl."
        " Default ContactSheets.",
    )
    frames_per_second: float = Field(
        default=2.0,
        ge=0.01,
        le=120,
        description="framesPerSecond: samples per second of the episode. Default 2.0.",
    )
    max_frames_per_prompt: int = Field(
        default=60,
        ge=2,
        le=1000,
        description="maxFramesPerPrompt: samples of one window; a longer episode has several"
        " windows. Default 60.",
    )
    max_video_frames: int = Field(
        default=32,
        ge=2,
        le=1000,
        description="maxVideoFrames: frames of a window's clip, input VideoUrl. Default 32.",
    )
    sheet_columns: int = Field(
        default=5, ge=1, le=20, description="sheetColumns: tiles in a row of a contact sheet. Default 5."
    )
    frames_per_sheet: int = Field(
        default=20, ge=1, le=200, description="framesPerSheet: tiles of a contact sheet. Default 20."
    )
    tile_width: int = Field(
        default=224,
        ge=96,
        le=2048,
        description="tileWidth: width of a tile in pixels, height by aspect. Default 224.",
    )
    sheet_jpeg_quality: int = Field(
        default=84, ge=30, le=100, description="sheetJpegQuality: JPEG quality of contact sheets. Default 84."
    )
    describe_first: bool = Field(
        default=True,
        description="describeFirst: have the model describe what it sees before it segments. Default true.",
    )
    min_subtask_seconds: float = Field(
        default=1.5,
        ge=0,
        le=3600,
        description="minSubtaskSeconds: shorter subtasks are joined with a neighbour. Default 1.5."
        " 0: none is.",
    )
    max_steps: int = Field(
        default=8, ge=1, le=100, description="maxSteps: subtasks of a window; more are joined. Default 8."
    )
    seeded_relabel: bool = Field(
        default=False,
        description="seededRelabel: label each subtask again, seen with its neighbours. Default false.",
    )
    relabel_frames: int = Field(
        default=5,
        ge=1,
        le=100,
        description="relabelFrames: frames of a subtask shown by seededRelabel. Default 5.",
    )
    emit_plan: bool = Field(
        default=True, description="emitPlan: write plan rows at subtask starts. Default true."
    )
    emit_memory: bool = Field(
        default=True, description="emitMemory: write memory rows at later subtask starts. Default true."
    )
    derive_task: Literal["Never", "IfShort", "Always"] = Field(
        default="IfShort",
        description="deriveTask: ask the model for the task: Never, IfShort (empty, a placeholder, or"
        " fewer than"
        " deriveTaskMinWords words) or Always. Default IfShort.",
    )
    derive_task_min_words: int = Field(
        default=3,
        ge=0,
        le=100,
        description="deriveTaskMinWords: words of a task that is not short. Default 3. 0: only empty ones and"
        " placeholders are short.",
    )
    task_rephrasings: int = Field(
        default=10, ge=0, le=100, description="taskRephrasings: rephrasings of the task. Default 10. 0: none."
    )
    task_axes: TaskAxes | None = Field(
        default=None,
        description="taskAxes: variants along five axes in place of taskRephrasings; {} is 3/3/2/2/2."
        " Default null: off.",
    )


class InterjectionsModule(SpecModel):
    """Spoken exchanges between user and robot (event rows)."""

    max_per_episode: int = Field(
        default=3,
        ge=0,
        le=100,
        description="maxPerEpisode: interjections of an episode. Default 3. 0: only the first speech.",
    )
    min_time_seconds: float = Field(
        default=2.0,
        ge=0,
        le=86_400,
        description="minTimeSeconds: seconds after the start without interjection. Default 2.0. 0: none.",
    )
    window_seconds: float = Field(
        default=2.0,
        ge=0.1,
        le=600,
        description="windowSeconds: seconds of video shown around one. Default 2.0.",
    )
    window_frames: int = Field(
        default=4, ge=1, le=100, description="windowFrames: frames shown of these seconds. Default 4."
    )


class VqaModule(SpecModel):
    """Questions and answers about single frames (event rows)."""

    emission_hz: float = Field(
        default=1.0, ge=0.001, le=240, description="emissionHz: ticks per second of the episode. Default 1.0."
    )
    frames_per_tick: int = Field(
        default=1, ge=1, le=1000, description="framesPerTick: frames in a row at each tick. Default 1."
    )
    question_types: Annotated[
        tuple[QuestionType, ...],
        AfterValidator(_check_distinct),
        Cel("self.all(type, self.exists_one(other, other == type))"),
        Expect(f"a list of 1 to 5 question types out of {', '.join(_QUESTION_TYPES)}, each once"),
    ] = Field(
        default=_QUESTION_TYPES,
        min_length=1,
        max_length=5,
        description="questionTypes: types to draw from, one per frame."
        " Default [bbox, keypoint, count, attribute, spatial].",
    )
    cameras: Literal["All", "Default"] = Field(
        default="All", description="cameras: ask about All cameras or the Default one. Default All."
    )


def _nothing_enabled(values: Mapping[str, object]) -> str | None:
    return "no module" if all(value is None for value in values.values()) else None


class ModulesSpec(SpecModel):
    """Which modules run."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "plan",
            _nothing_enabled,
            "at least one of plan, interjections, vqa",
            "name a module; 'vqa: {}' switches it on with defaults, 'vqa:' alone is null and leaves it off",
            "has(self.plan) || has(self.interjections) || has(self.vqa)",
        ),
    )

    plan: PlanModule | None = Field(
        default=None, description="plan: subtask, plan, memory and task_aug rows. Default null: off."
    )
    interjections: InterjectionsModule | None = Field(
        default=None, description="interjections: interjection and speech rows. Default null: off."
    )
    vqa: VqaModule | None = Field(
        default=None, description="vqa: question and answer rows. Default null: off."
    )
