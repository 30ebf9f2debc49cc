"""Which modules a run has, and the keys of their results.

The keys of results: what stands in them decides when work is done again, and when it is not.

Which modules a run has, what each looks at and builds on, and how it is run for one episode.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_modules import InterjectionsModule, PlanModule, VqaModule
from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.language.rows import ModuleName, ResultName, StagedRow
from annotationrun_worker.modules import coordinates as coordinate_probe
from annotationrun_worker.modules import interjections, plan, task, vqa
from annotationrun_worker.modules.base import EpisodeContext, Prompts, UnansweredQuestion
from annotationrun_worker.modules.coordinates import (
    CoordinateProbe,
    asks_for_coordinates,
    resolve_coordinate_scale,
)
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.results import RESULT_FORMAT
from annotationrun_worker.video.provider import FrameProvider
from annotationrun_worker.vlm.ask import Asker


@dataclass(frozen=True, slots=True)
class ResultIdentity:
    """Everything that a result depends on."""

    module: str
    fingerprint: Digest
    """Of what the module sees of the episode."""
    settings: Mapping[str, Any]
    """The module's settings as in the manifest, and what was resolved for it (such as a scale)."""
    model: Mapping[str, Any]
    """Id, revision, sampling."""
    prompts: Mapping[str, Digest]
    seed: int
    output_language: str
    builds_on: Sequence[Digest] = ()
    """Content digests of the results that it builds on."""

    def key(self) -> Digest:
        """The result's key: SHA-256 over all of it, and the format's version."""
        return digest_json(
            {
                "format": RESULT_FORMAT,
                "module": self.module,
                "fingerprint": self.fingerprint,
                "settings": self.settings,
                "model": self.model,
                "prompts": self.prompts,
                "seed": self.seed,
                "output_language": self.output_language,
                "builds_on": list(self.builds_on),
            }
        )


Outcome = tuple[Sequence[StagedRow], Sequence[UnansweredQuestion]]
NO_CAMERA = CameraKey("")
Name = TypeVar("Name", bound=ResultName, covariant=True)


async def _nothing(asker: Asker) -> None:
    """Most modules have nothing to check."""


@dataclass(frozen=True, slots=True)
class Module(Generic[Name]):
    """An enabled module, everything of the manifest resolved."""

    name: Name
    cameras: tuple[CameraKey, ...]
    """Those it looks at."""
    settings: Mapping[str, Any]
    """What its result depends on beside the episode, the model and the prompts; JSON values."""
    prompts: Mapping[str, Digest]
    annotate: Callable[[EpisodeContext], Awaitable[Outcome]]
    check: Callable[[Asker], Awaitable[None]] = _nothing
    """Done before the first result is made; raises where none can be right."""
    builds_on_subtasks: bool = False


@dataclass(frozen=True, slots=True)
class TaskRule:
    """When the effective task is not the dataset's, and how it is come by."""

    has_to_derive: Callable[[str], bool]
    """Of the dataset's task."""
    module: Module[ResultName]
    """Its result is one row, whose content is the task."""


@dataclass(frozen=True, slots=True)
class RunModules:
    """All that a run makes of an episode."""

    published: tuple[Module[ModuleName], ...]
    """In the order in which they build on each other."""
    task_rule: TaskRule | None
    """``None``: the dataset's task is the effective one."""

    @property
    def prompt_names(self) -> frozenset[str]:
        """Of all prompts that they ask with."""
        rule = () if self.task_rule is None else (self.task_rule.module,)
        return frozenset(name for module in (*self.published, *rule) for name in module.prompts)


def enabled_modules(
    spec: RunSpec,
    frames: FrameProvider,
    camera_sizes: Mapping[CameraKey, tuple[int, int]],
    prompts: Prompts,
    warn: Callable[[str], None],
) -> RunModules:
    """The run's modules; ``warn`` is told what is doubtful and yet goes on.

    Args:
        spec: of the run.
        frames: of the dataset.
        camera_sizes: (width, height) of the pictures of each camera, in pixels.
        prompts: that the modules ask with.
        warn: see above.

    Raises:
        NoCamerasError: the dataset has no camera; every module looks at frames.
        ConfigurationError: the scale of the model's coordinates is not known.
    """
    default = frames.default_camera
    modules: list[Module[ModuleName]] = []
    if spec.modules.plan is not None:
        modules.append(plan_module(spec.modules.plan, prompts, default))
    if spec.modules.interjections is not None:
        modules.append(_interjections(spec.modules.interjections, default, prompts))
    if spec.modules.vqa is not None:
        cameras = frames.camera_keys if spec.modules.vqa.cameras == "All" else (default,)
        probe = CoordinateProbe(
            scale=resolve_coordinate_scale(spec.model, spec.modules.vqa),
            is_set_by_hand=spec.model.coordinate_scale != "Auto",
            model=spec.model.id,
            sizes=tuple(dict.fromkeys(camera_sizes[camera] for camera in cameras)),
            prompts=prompts,
            warn=warn,
        )
        modules.append(_vqa(spec.modules.vqa, cameras, probe))
    task_rule = None if spec.modules.plan is None else _task_rule(spec.modules.plan, default, prompts)
    return RunModules(tuple(modules), task_rule)


def _task_rule(settings: PlanModule, camera: CameraKey, prompts: Prompts) -> TaskRule:
    async def annotate(context: EpisodeContext) -> Outcome:
        derived = await task.derive_task(context, settings, camera)
        row = StagedRow(0, role="user", style="task_aug", content=derived.text, request=derived.request)
        return [row], ()

    module: Module[ResultName] = Module(
        name="task",
        cameras=(camera,),
        settings=task.deciding_settings(settings),
        prompts=prompts.digests(task.PROMPTS),
        annotate=annotate,
    )
    return TaskRule(lambda text: task.has_to_derive(text, settings), module)


def plan_module(settings: PlanModule, prompts: Prompts, camera: CameraKey = NO_CAMERA) -> Module[ModuleName]:
    """The module plan; what its results depend on is the same without a camera to look at."""

    async def annotate(context: EpisodeContext) -> Outcome:
        return await plan.annotate_plan(context, settings, camera), ()

    return Module(
        name="plan",
        cameras=(camera,),
        settings=settings.model_dump(mode="json", by_alias=True),
        prompts=prompts.digests(plan.PROMPTS),
        annotate=annotate,
    )


def _interjections(settings: InterjectionsModule, camera: CameraKey, prompts: Prompts) -> Module[ModuleName]:
    async def annotate(context: EpisodeContext) -> Outcome:
        return await interjections.annotate_interjections(context, settings, camera)

    return Module(
        name="interjections",
        cameras=(camera,),
        settings=settings.model_dump(mode="json", by_alias=True),
        prompts=prompts.digests(interjections.PROMPTS),
        annotate=annotate,
        builds_on_subtasks=True,
    )


def _vqa(settings: VqaModule, cameras: tuple[CameraKey, ...], probe: CoordinateProbe) -> Module[ModuleName]:
    async def annotate(context: EpisodeContext) -> Outcome:
        return await vqa.annotate_vqa(context, settings, cameras, probe.scale)

    return Module(
        name="vqa",
        cameras=cameras,
        settings={**settings.model_dump(mode="json", by_alias=True), "coordinateScale": probe.scale},
        prompts=probe.prompts.digests((*vqa.PROMPTS, coordinate_probe.PROMPT)),
        annotate=annotate,
        check=probe.check if asks_for_coordinates(settings) else _nothing,
    )
