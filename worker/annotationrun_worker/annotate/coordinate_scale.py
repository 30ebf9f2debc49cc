"""In which unit a model answers coordinates: known for some models, else to be said in the manifest.

A wrong scale passes every range check and makes every box wrong, so nothing is guessed, and what is known is
tried on a drawn picture before the first box is asked for (``coordinate_probe``).
"""

from collections.abc import Mapping
from typing import Final

from annotationrun_api.spec_model import ModelSpec
from annotationrun_api.spec_modules import VqaModule
from annotationrun_worker.annotate.vqa_answers import CoordinateScale
from annotationrun_worker.errors import ConfigurationError

KNOWN_SCALES: Final[Mapping[str, CoordinateScale]] = {
    "Qwen/Qwen2-VL": "Thousandths",
    "Qwen/Qwen2.5-VL": "Pixels",
    "Qwen/Qwen3-VL": "Thousandths",
    "Qwen/Qwen3.5": "Thousandths",
    "Qwen/Qwen3.6": "Thousandths",
    "demo-vlm": "Pixels",
}
"""By the start of the model's id, from the models' own documentation; the longest match counts."""
COORDINATES: Final[Mapping[CoordinateScale, str]] = {
    "Pixels": "in pixels of this image, the top left corner being 0, 0",
    "Thousandths": "in thousandths of the image's width and height, from 0 to 1000",
}
"""How the prompts ask for coordinates."""
_WITH_COORDINATES = frozenset({"bbox", "keypoint"})


def asks_for_coordinates(vqa: VqaModule) -> bool:
    """Whether a question type has coordinates in its answer."""
    return bool(_WITH_COORDINATES & set(vqa.question_types))


def resolve_coordinate_scale(model: ModelSpec, vqa: VqaModule) -> CoordinateScale:
    """The scale of the model's coordinates; Pixels where no question asks for any.

    Raises:
        ConfigurationError: the manifest says ``Auto``, and the model is not in the table.
    """
    if model.coordinate_scale != "Auto":
        return model.coordinate_scale
    known = [start for start in KNOWN_SCALES if model.id.startswith(start)]
    if known:
        return KNOWN_SCALES[max(known, key=len)]
    if not asks_for_coordinates(vqa):
        return "Pixels"
    raise ConfigurationError(
        f"spec.model.coordinateScale is Auto, and the scale in which {model.id!r} answers coordinates is not "
        "known; set it to Pixels or Thousandths, or leave bbox and keypoint out of "
        "spec.modules.vqa.questionTypes"
    )
