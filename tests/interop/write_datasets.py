"""Writes the datasets of lerobot_recordings.py through LeRobot's own writer; runs in LeRobot's environment.

    python write_datasets.py FOLDER

Every frame carries the frame code: its dataset-wide index, the number of its camera and its episode.
"""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

# Read by the libraries when they are imported. Nothing comes from a hub, nothing stays in a cache.
_SCRATCH = tempfile.TemporaryDirectory(prefix="lerobot-writer-")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": _SCRATCH.name}

import numpy as np  # noqa: E402  see os.environ
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402

# A neighbour, found because python puts the script's folder first on its path.
from lerobot_recordings import RECORDINGS, TASKS, Recording  # noqa: E402

FRAME_CODE = Path(__file__).parents[2] / "worker" / "annotationrun_worker" / "demo" / "frame_code.py"
JOINTS = ["shoulder.pos", "elbow.pos", "gripper.pos"]
ENCODER_THREADS = 2


def load_frame_code() -> ModuleType:
    """The project's frame code, by its path: the project itself is not installed here."""
    spec = importlib.util.spec_from_file_location("frame_code", FRAME_CODE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(recording: Recording, root: Path, frame_code: ModuleType) -> None:
    """Record every episode of one dataset."""
    shape = (frame_code.H, frame_code.W, 3)
    features = {
        name: {"dtype": "float32", "shape": (len(JOINTS),), "names": JOINTS}
        for name in ("observation.state", "action")
    } | {
        camera: {"dtype": dtype, "shape": shape, "names": ["height", "width", "channels"]}
        for camera, dtype in recording.cameras.items()
    }
    writing = {"encoder_threads": ENCODER_THREADS, "root": root}
    dataset = LeRobotDataset.create("tests/written", fps=recording.fps, features=features, **writing)
    index = 0
    for episode, length in enumerate(recording.lengths):
        if episode and recording.one_episode_a_file:
            dataset.finalize()
            dataset = LeRobotDataset.resume("tests/written", **writing)
        for frame in range(length):
            values = np.sin(np.arange(len(JOINTS)) + index / 20).astype(np.float32)
            pictures = {
                camera: frame_code.render(index, number, episode)
                for number, camera in enumerate(recording.cameras)
            }
            task = TASKS[episode % len(TASKS)]
            dataset.add_frame(
                {"observation.state": values, "action": values + frame, "task": task} | pictures
            )
            index += 1
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()


def main() -> None:
    """Write them all into the folder named on the command line."""
    folder = Path(sys.argv[1])
    frame_code = load_frame_code()
    for recording in RECORDINGS:
        write(recording, folder / recording.name, frame_code)


if __name__ == "__main__":
    main()
