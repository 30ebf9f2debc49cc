"""The datasets that LeRobot's own writer writes for the tests; a table, so that tests can name them.

Used in both environments: by write_datasets.py, which writes them, and by the tests, which read them.
"""

from dataclasses import dataclass
from typing import Literal

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
TASKS = ("Push the square around the table", "Move it")
"""In turn, episode by episode; the second is too short to say what is done."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One dataset.

    Attributes:
        name: of the dataset, and of its folder.
        fps: frames a second.
        lengths: frames of each episode.
        cameras: how each camera is stored, in the order of its number in the frame code.
        one_episode_a_file: the recording is taken up again for each episode, which starts new files.
    """

    name: str
    fps: int
    lengths: tuple[int, ...]
    cameras: dict[str, Literal["video", "image"]]
    one_episode_a_file: bool = False


RECORDINGS = (
    Recording("10 fps", 10, (30, 45), {FRONT: "video", WRIST: "video"}),
    Recording("60 fps", 60, (150, 61), {FRONT: "video"}),
    Recording("one camera", 30, (60, 75), {WRIST: "video"}),
    Recording("image cameras", 15, (40, 31), {FRONT: "image", WRIST: "image"}),
    Recording("an image and a video camera", 15, (40, 31), {FRONT: "image", WRIST: "video"}),
    Recording("one episode a file", 30, (40, 45, 33), {FRONT: "video", WRIST: "video"}, True),
    Recording("short episodes", 30, (1, 2, 5, 1, 12), {FRONT: "video"}),
)
