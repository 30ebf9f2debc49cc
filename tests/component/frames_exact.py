"""Every frame of the reference dataset, asked for at its parquet timestamp, shows the code of its row.

`make frames-exact` runs this file; it prints how many frames were asked for and how many were wrong.
"""

import sys
from pathlib import Path

import pyarrow.parquet as pq

from annotationrun_worker.dataset.episodes import list_episodes, read_episode
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.demo import frame_code
from annotationrun_worker.frames.provider import FrameProvider, FrameSettings, make_frame_provider

DATASET = Path(__file__).parent.parent / "data" / "lerobot_v3"
CHUNK_FRAMES = 200


def count_wrong_frames(root: Path, provider: FrameProvider) -> tuple[int, int]:
    """(frames asked, frames whose picture does not carry the index, camera and episode of its row)."""
    info = read_info(root)
    asked = wrong = 0
    for summary in list_episodes(root, info):
        episode = read_episode(root, info, summary, provider.camera_keys)
        of_episode = [("episode_index", "=", int(episode.index))]
        rows = pq.read_table(
            episode.data_path, columns=["timestamp", "index"], filters=of_episode
        ).to_pylist()
        for number, camera in enumerate(provider.camera_keys):
            for start in range(0, len(rows), CHUNK_FRAMES):
                chunk = rows[start : start + CHUNK_FRAMES]
                frames = provider.frames_at(episode, [row["timestamp"] for row in chunk], camera)
                for row, frame in zip(chunk, frames, strict=True):
                    expected = {"index": row["index"], "camera": number, "episode": int(episode.index)}
                    asked += 1
                    wrong += frame_code.read(frame.numpy()) != expected
    return asked, wrong


def main() -> int:
    """Print the count; 0 if all are right."""
    provider = make_frame_provider(read_features(read_info(DATASET)), FrameSettings(cache_bytes=1024 * 1024))
    try:
        asked, wrong = count_wrong_frames(DATASET, provider)
    finally:
        provider.close()
    print(f"{asked} asked, {wrong} wrong")
    return 0 if asked and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
