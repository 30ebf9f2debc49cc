"""Which modules a run has, what each looks at, and how it is run for one episode."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_modules import PlanModule, VqaModule
from annotationrun_worker.annotate import plan, vqa
from annotationrun_worker.annotate.context import EpisodeContext, Hole
from annotationrun_worker.annotate.coordinate_scale import resolve_coordinate_scale
from annotationrun_worker.annotate.prompts import prompt_digests
from annotationrun_worker.annotate.vqa_answers import CoordinateScale
from annotationrun_worker.dataset.records import CameraKey
from annotationrun_worker.frames.provider import FrameProvider
from annotationrun_worker.rows import ModuleName, StagedRow
from annotationrun_worker.staging.digests import Digest

Outcome = tuple[Sequence[StagedRow], Sequence[Hole]]


@dataclass(frozen=True, slots=True)
class Module:
    """An enabled module, everything of the manifest resolved."""

    name: ModuleName
    cameras: tuple[CameraKey, ...]
    """Those it looks at."""
    settings: Mapping[str, Any]
    """What its result depends on beside the episode, the model and the prompts; JSON values."""
    prompts: Mapping[str, Digest]
    annotate: Callable[[EpisodeContext], Awaitable[Outcome]]


def enabled_modules(spec: RunSpec, frames: FrameProvider) -> list[Module]:
    """The run's modules, in the order in which their rows come.

    Raises:
        NoCamerasError: the dataset has no camera; every module looks at frames.
        ConfigurationError: the scale of the model's coordinates is not known.
    """
    default = frames.default_camera
    modules = []
    if spec.modules.plan is not None:
        modules.append(_plan(spec.modules.plan, default))
    if spec.modules.vqa is not None:
        cameras = frames.camera_keys if spec.modules.vqa.cameras == "All" else (default,)
        modules.append(
            _vqa(spec.modules.vqa, cameras, resolve_coordinate_scale(spec.model, spec.modules.vqa))
        )
    return modules


def _plan(settings: PlanModule, camera: CameraKey) -> Module:
    async def annotate(context: EpisodeContext) -> Outcome:
        return await plan.annotate_plan(context, settings, camera), ()

    return Module(
        name="plan",
        cameras=(camera,),
        settings=settings.model_dump(mode="json", by_alias=True),
        prompts=prompt_digests(plan.PROMPTS),
        annotate=annotate,
    )


def _vqa(settings: VqaModule, cameras: tuple[CameraKey, ...], scale: CoordinateScale) -> Module:
    async def annotate(context: EpisodeContext) -> Outcome:
        return await vqa.annotate_vqa(context, settings, cameras, scale)

    return Module(
        name="vqa",
        cameras=cameras,
        settings={**settings.model_dump(mode="json", by_alias=True), "coordinateScale": scale},
        prompts=prompt_digests(vqa.PROMPTS),
        annotate=annotate,
    )
