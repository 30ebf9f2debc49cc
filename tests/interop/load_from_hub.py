"""Loads a dataset by its name, as a user of LeRobot does; runs in the environment that environment.sh makes.

    python load_from_hub.py REPO

``HF_ENDPOINT`` names the Hub. Prints what was loaded, as JSON.
"""

import json
import sys

from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main() -> None:
    dataset = LeRobotDataset(sys.argv[1])
    rows = [len(dataset[index]["language_events"]) for index in range(len(dataset))]
    print(
        json.dumps(
            {
                "revision": dataset.revision,
                "episodes": dataset.num_episodes,
                "frames": len(dataset),
                "frames_with_events": sum(count > 0 for count in rows),
                "cameras": list(dataset.meta.camera_keys),
            }
        )
    )


if __name__ == "__main__":
    main()
