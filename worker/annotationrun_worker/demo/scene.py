"""The demo's little world: what happens in each episode, how it looks, and so what is true of every frame.

A gripper moves coloured blocks onto coloured pads, seen from the side by two cameras. All that happens can be
read from the pixels of a single frame:

* fingers wide apart: the gripper is on its way to a block ("pick up ..."),
* fingers closed on a block: it is held and carried ("place ... on ...", until the block is let go),
* fingers a little open: it has let go and moves away (still part of the place).

Nothing ever covers a block or a pad. Edges are soft, since SVT-AV1 spoils hard ones. The top left corner,
where contact sheets show the time, is kept clear. The bottom of each frame is the ``frame_code``.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.demo.frame_code import code_strip

WIDTH, HEIGHT = 480, 360
"""Size of a frame in pixels."""
SCENE_HEIGHT = 252
"""Rows of the scene; the code strip lies below."""
FPS = 10
CAMERAS = ("observation.images.front", "observation.images.wrist")
"""The cameras; the place is the camera's number in the frame code."""
TASK_ALL = "Put the blocks on the pads"

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""
Rgb = tuple[int, int, int]

_BLOCK_COLOURS: dict[str, Rgb] = {"red": (214, 38, 38), "green": (34, 178, 52), "yellow": (232, 214, 44)}
_PAD_COLOURS: dict[str, Rgb] = {"blue": (48, 70, 218), "pink": (222, 52, 210)}
_GRIPPER_COLOUR: Rgb = (34, 196, 204)
_ARM_COLOUR: Rgb = (96, 98, 104)
_TABLE_COLOURS: tuple[Rgb, Rgb] = ((150, 140, 128), (128, 140, 150))
_WALL_COLOURS: tuple[Rgb, Rgb] = ((206, 202, 194), (192, 200, 208))

_BLOCK = 48.0
_TABLE_Y = 220.0
_PAD_WIDTH, _PAD_HEIGHT = 78.0, 22.0
_SLOT_X = (62.0, 155.0, 247.0)
_PAD_X = (345.0, 433.0)
"""Centres in pixels, so far apart that open fingers never reach over a neighbour."""
_TRAVEL_Y = 84.0
"""Top of a block that is carried (below the time badge of a tile, which covers about 43 rows)."""
_BAR_HEIGHT, _FINGER_LENGTH, _FINGER_WIDTH = 18.0, 34.0, 12.0
_EDGE_SIGMA = 1.6
"""Softness of all edges in pixels."""
_WRIST_SCALE, _WRIST_LEFT, _WRIST_TOP = 0.875, 30.0, 28.0

Fingers = Literal["wide", "closed", "ajar"]
_FINGER_REACH: dict[Fingers, float] = {"wide": 58.0, "ajar": 46.0, "closed": _BLOCK / 2 + _FINGER_WIDTH}
"""Half of the gripper's width in pixels."""


@dataclass(frozen=True, slots=True)
class Move:
    """One block carried to one pad; each phase is a half-open range of frames."""

    block: str
    pad: str
    start_frame: int
    close_frame: int
    """From here on the block is held."""
    release_frame: int
    """From here on it lies on the pad."""
    end_frame: int


@dataclass(frozen=True, slots=True)
class DemoEpisode:
    """What happens in one episode."""

    index: int
    task: str
    frame_count: int
    from_index: int
    """Dataset-wide index of the first frame."""
    blocks: tuple[tuple[str, float], ...]
    """Colour and x of the centre at the start, in pixels of the front camera."""
    pads: tuple[tuple[str, float], ...]
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class WorldState:
    """Where all is in one frame, in pixels of the front camera."""

    gripper_x: float
    gripper_y: float
    """Lower edge of the gripper's bar, which is the upper edge of a block that is held."""
    fingers: Fingers
    blocks: tuple[tuple[str, float, float], ...]
    """Colour, x of the centre, y of the upper edge."""


def make_episodes(count: int, seed: int) -> tuple[DemoEpisode, ...]:
    """The script of a dataset of ``count`` episodes; the same seed gives the same script.

    Every fourth episode (the third, the seventh ...) moves one block only and has a task of its own.
    """
    episodes: list[DemoEpisode] = []
    from_index = 0
    for index in range(count):
        episodes.append(_make_episode(index, from_index, np.random.default_rng([seed, index])))
        from_index += episodes[-1].frame_count
    return tuple(episodes)


def _make_episode(index: int, from_index: int, random: np.random.Generator) -> DemoEpisode:
    colours = [str(c) for c in random.permutation(list(_BLOCK_COLOURS))]
    pads = [str(c) for c in random.permutation(list(_PAD_COLOURS))]
    blocks = colours if index % 2 else colours[:2]
    slots = random.permutation(len(_SLOT_X))
    single = index % 4 == 2
    moves: list[Move] = []
    frame = 0
    for block, pad in zip(blocks[: 1 if single else 2], pads, strict=False):
        # phases in seconds: 2.5..3.5 to the block, 2.5..3.5 with it, 1.2..1.8 away from the pad
        durations = random.uniform((2.5, 2.5, 1.2), (3.5, 3.5, 1.8)) * (1.6 if single else 1.0)
        close, release, end = (frame + np.rint(np.cumsum(durations) * FPS).astype(int)).tolist()
        moves.append(Move(block, pad, frame, close, release, end))
        frame = end
    # an even count: every second frame is a key frame, so each episode of a file begins with one
    still_frames = int(random.integers(12, 30))
    frame_count = frame + still_frames + (frame + still_frames) % 2
    task = f"Put the {moves[0].block} block on the {moves[0].pad} pad" if single else TASK_ALL
    placed = tuple((block, _SLOT_X[slot]) for block, slot in zip(blocks, slots, strict=False))
    return DemoEpisode(
        index, task, frame_count, from_index, placed, tuple(zip(pads, _PAD_X, strict=True)), tuple(moves)
    )


def subtask_truth(episode: DemoEpisode) -> list[tuple[str, float, float]]:
    """The subtasks as (text, start, end) in seconds of the episode; the last ends at the last frame."""
    spans: list[tuple[str, int]] = []
    for move in episode.moves:
        spans.append((f"pick up the {move.block} block", move.start_frame))
        spans.append((f"place the {move.block} block on the {move.pad} pad", move.close_frame))
    ends = [start for _, start in spans[1:]] + [episode.frame_count - 1]
    return [(text, start / FPS, end / FPS) for (text, start), end in zip(spans, ends, strict=True)]


def boxes_truth(episode: DemoEpisode, frame: int, camera: str) -> dict[str, Box]:
    """Boxes of the blocks, the pads and the gripper by label ("red block"), in pixels of ``camera``."""
    state = world_state(episode, frame)
    number = CAMERAS.index(camera)
    boxes = {f"{colour} block": _block_box(x, y) for colour, x, y in state.blocks}
    boxes |= {f"{colour} pad": _pad_box(x) for colour, x in episode.pads}
    reach = _FINGER_REACH[state.fingers]
    x, y = state.gripper_x, state.gripper_y
    boxes["gripper"] = (x - reach, y - _BAR_HEIGHT, x + reach, y + _FINGER_LENGTH)
    return {label: _seen_by(number, box) for label, box in boxes.items()}


def world_state(episode: DemoEpisode, frame: int) -> WorldState:
    """Where everything is in frame ``frame`` (0-based in the episode)."""
    blocks = {colour: (x, _TABLE_Y - _BLOCK) for colour, x in episode.blocks}
    pads = dict(episode.pads)
    placed_y = _TABLE_Y - _PAD_HEIGHT - _BLOCK
    rest_x = 0.5 * (_SLOT_X[1] + _SLOT_X[2])
    for move in episode.moves:
        block_x, pad_x = blocks[move.block][0], pads[move.pad]
        fingers: Fingers
        if frame < move.close_frame:
            fingers, way = "wide", [(rest_x, _TRAVEL_Y), (block_x, _TRAVEL_Y), (block_x, _TABLE_Y - _BLOCK)]
            x, y = _along(way, (0.6, 0.4), move.start_frame, move.close_frame, frame)
        elif frame < move.release_frame:
            fingers = "closed"
            way = [(block_x, _TABLE_Y - _BLOCK), (block_x, _TRAVEL_Y), (pad_x, _TRAVEL_Y), (pad_x, placed_y)]
            x, y = _along(way, (0.25, 0.5, 0.25), move.close_frame, move.release_frame, frame)
            blocks[move.block] = (x, y)
        else:
            fingers, way = "ajar", [(pad_x, placed_y), (pad_x, _TRAVEL_Y)]
            x, y = _along(way, (1.0,), move.release_frame, move.end_frame, min(frame, move.end_frame))
            blocks[move.block] = (pad_x, placed_y)
        if frame < move.end_frame:
            break
        rest_x = pad_x
    return WorldState(x, y, fingers, tuple((colour, bx, by) for colour, (bx, by) in blocks.items()))


def draw_frame(episode: DemoEpisode, frame: int, camera: str) -> NDArray[np.uint8]:
    """Frame ``frame`` as ``camera`` sees it: uint8 of shape (360, 480, 3), RGB."""
    number = CAMERAS.index(camera)
    image = _backdrop(number).copy()
    state = world_state(episode, frame)
    for box, colour in _parts(episode, state):
        _paint(image[:SCENE_HEIGHT], _seen_by(number, box), colour)
    strip = code_strip(episode.from_index + frame, number, episode.index, (WIDTH, HEIGHT - SCENE_HEIGHT))
    picture: NDArray[np.uint8] = (image + np.float32(0.5)).astype(np.uint8)
    picture[SCENE_HEIGHT:] = strip[..., None]
    return picture


def _parts(episode: DemoEpisode, state: WorldState) -> list[tuple[Box, Rgb]]:
    x, y, reach = state.gripper_x, state.gripper_y, _FINGER_REACH[state.fingers]
    top, tip = y - _BAR_HEIGHT, y + _FINGER_LENGTH
    return [
        *((_pad_box(px), _PAD_COLOURS[colour]) for colour, px in episode.pads),
        *((_block_box(bx, by), _BLOCK_COLOURS[colour]) for colour, bx, by in state.blocks),
        ((x - 5, -40.0, x + 5, top + 2), _ARM_COLOUR),
        ((x - reach, top, x + reach, y), _GRIPPER_COLOUR),
        ((x - reach, y - 2, x - reach + _FINGER_WIDTH, tip), _GRIPPER_COLOUR),
        ((x + reach - _FINGER_WIDTH, y - 2, x + reach, tip), _GRIPPER_COLOUR),
    ]


def _block_box(x: float, y: float) -> Box:
    return (x - _BLOCK / 2, y, x + _BLOCK / 2, y + _BLOCK)


def _pad_box(x: float) -> Box:
    return (x - _PAD_WIDTH / 2, _TABLE_Y - _PAD_HEIGHT, x + _PAD_WIDTH / 2, _TABLE_Y)


def _seen_by(camera_number: int, box: Box) -> Box:
    """A box of the world in pixels of a camera: the wrist camera looks from behind, from further off."""
    if camera_number == 0:
        return box
    x1, y1, x2, y2 = box
    left, right = (WIDTH - (_WRIST_LEFT + _WRIST_SCALE * x) for x in (x2, x1))
    return (left, _WRIST_TOP + _WRIST_SCALE * y1, right, _WRIST_TOP + _WRIST_SCALE * y2)


@lru_cache(maxsize=len(CAMERAS))
def _backdrop(camera_number: int) -> NDArray[np.float32]:
    """Wall and table, float32 of shape (360, 480, 3) with values 0..255; not to be changed."""
    rows = np.arange(HEIGHT, dtype=np.float32)[:, None, None]
    columns = np.arange(WIDTH, dtype=np.float32)[None, :, None]
    wall = np.array(_WALL_COLOURS[camera_number], np.float32) - 0.12 * rows + 6 * np.sin(columns / 90)
    table = np.array(_TABLE_COLOURS[camera_number], np.float32) + 0 * columns
    horizon = _soft_step(rows - _seen_by(camera_number, (0, _TABLE_Y, 0, _TABLE_Y))[1])
    backdrop: NDArray[np.float32] = (wall + (table - wall) * horizon).astype(np.float32)
    return backdrop


def _paint(image: NDArray[np.float32], box: Box, colour: Rgb) -> None:
    """Blend a soft-edged rectangle into ``image`` in place."""
    x1, y1, x2, y2 = box
    margin = 4 * _EDGE_SIGMA
    rows = slice(max(0, int(y1 - margin)), max(0, int(y2 + margin) + 1))
    columns = slice(max(0, int(x1 - margin)), max(0, int(x2 + margin) + 1))
    area = image[rows, columns]
    # + 0.5: a box is measured at pixel edges, a pixel's colour at its centre
    ys = np.arange(rows.start, rows.start + area.shape[0], dtype=np.float32) + np.float32(0.5)
    xs = np.arange(columns.start, columns.start + area.shape[1], dtype=np.float32) + np.float32(0.5)
    down = _soft_step(ys - y1) * _soft_step(y2 - ys)
    across = _soft_step(xs - x1) * _soft_step(x2 - xs)
    cover = (down[:, None] * across[None, :])[..., None]
    area += (np.array(colour, np.float32) - area) * cover


def _soft_step(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """0 far below zero, 1 far above, a half at zero; ``distance`` in pixels."""
    step: NDArray[np.float32] = 1 / (1 + np.exp(-np.clip(distance / _EDGE_SIGMA * 1.7, -30, 30)))
    return step


def _along(
    way: list[tuple[float, float]], parts: tuple[float, ...], start_frame: int, end_frame: int, frame: int
) -> tuple[float, float]:
    """The place on a way of straight legs; leg i takes ``parts[i]`` of the time, starts and ends slowly."""
    progress = (frame - start_frame) / (end_frame - start_frame)
    for (x1, y1), (x2, y2), part in zip(way, way[1:], parts, strict=False):
        if progress < part:
            eased = 0.5 - 0.5 * float(np.cos(np.pi * progress / part))
            return x1 + (x2 - x1) * eased, y1 + (y2 - y1) * eased
        progress -= part
    return way[-1]
