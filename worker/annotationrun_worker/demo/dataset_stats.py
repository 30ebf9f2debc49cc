"""Statistics of a dataset as LeRobot v3.0 stores them, per episode and over all episodes.

https://huggingface.co/docs/lerobot/lerobot-dataset-v3
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)

Stats = dict[str, NDArray[Any]]
"""``min``, ``max``, ``mean``, ``std``, ``q01`` ... ``q99`` in float64; ``count`` is one whole number."""


def column_stats(values: NDArray[np.generic]) -> Stats:
    """Statistics of a column, shape (rows,) or (rows, n); each statistic has shape (1,) or (n,)."""
    table = values.astype(np.float64).reshape(len(values), -1)
    stats = {
        "min": table.min(0),
        "max": table.max(0),
        "mean": table.mean(0),
        "std": table.std(0),
        "count": np.array([len(table)]),
    }
    quantiles = np.quantile(table, QUANTILES, axis=0)
    return stats | {f"q{q * 100:02.0f}": row for q, row in zip(QUANTILES, quantiles, strict=True)}


def picture_stats(pictures: Sequence[NDArray[np.uint8]]) -> Stats:
    """Statistics of sampled frames (height, width, 3) by colour, in 0..1: each has shape (3, 1, 1)."""
    pixels = np.concatenate([picture.reshape(-1, 3) for picture in pictures])
    stats = column_stats(pixels / np.float64(255))
    shaped = {name: value.reshape(3, 1, 1) for name, value in stats.items() if name != "count"}
    return shaped | {"count": np.array([len(pictures)])}
