"""Starts LeRobot's own annotation pipeline, `lerobot-annotate`, in LeRobot's environment."""

from collections.abc import Sequence
from pathlib import Path


def lerobot_annotate(
    python: Path, dataset: Path, endpoint: str, model: str, options: Sequence[str] = ()
) -> list[str]:
    """The command that annotates `dataset` in place with the model at `endpoint`."""
    return [
        str(python),
        "-P",
        "-m",
        "lerobot.scripts.lerobot_annotate",
        f"--root={dataset}",
        f"--vlm.model_id={model}",
        f"--vlm.api_base={endpoint}",
        "--vlm.auto_serve=false",
        *options,
    ]


def lerobot_environment(scratch: Path) -> dict[str, str]:
    """Variables that keep LeRobot's libraries off hubs, and their caches in `scratch`."""
    return {"HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch), "HF_DATASETS_CACHE": str(scratch / "datasets")}
