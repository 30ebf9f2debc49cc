"""Where to start decoding, so that no frame is missed."""

from collections.abc import Iterator

FIRST_STEP_BACK_SECONDS = 1.0
"""How much earlier to seek when the first try landed behind the target (doubles with each try)."""


def steps_back(seconds: float) -> Iterator[float]:
    """The time itself, then ever earlier ones; the last is 0.

    Demuxers seek by DTS: where frames are reordered the keyframe found may be shown after the time asked for.
    """
    step = FIRST_STEP_BACK_SECONDS
    yield seconds
    while seconds > 0:
        seconds = max(seconds - step, 0.0)
        step *= 2
        yield seconds
