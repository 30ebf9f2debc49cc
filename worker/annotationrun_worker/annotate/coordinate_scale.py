"""In which unit a model answers coordinates: known for some models, else to be said in the manifest.

A wrong scale passes every range check and makes every box wrong, so nothing is guessed.
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
_WITH_COORDINATES = frozenset({"bbox", "keypoint"})


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
    if not _WITH_COORDINATES & set(vqa.question_types):
        return "Pixels"
    raise ConfigurationError(
        f"spec.model.coordinateScale is Auto, and the scale in which {model.id!r} answers coordinates is not "
        "known; set it to Pixels or Thousandths, or leave bbox and keypoint out of "
        "spec.modules.vqa.questionTypes"
    )
