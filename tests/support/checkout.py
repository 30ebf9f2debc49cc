"""Where this checkout lies, and the small LeRobot dataset of 6 episodes and 2 cameras that comes with it."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
REFERENCE: Final = ROOT / "tests" / "data" / "lerobot_v3"
