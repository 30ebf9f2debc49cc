"""A chat completion request as the demo model takes it in.

Reads the time in the corner of a contact sheet's tile from its pixels.

The badge is ``012.50s`` in white on a black box, in Pillow's default font at 14 px, the text two pixels from
the tile's top left corner. The digits of that font are all 8 px wide, so each has its place, and reading is
comparing each place with ten pictures.

A chat completion request as the demo model takes it in: the kind of question, its text, its pictures.

A picture is one frame, or, where the text says so, a contact sheet of many; a sheet is cut into its tiles,
and the time of a tile is read from its badge.
"""

import base64
import binascii
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

_FONT_PIXELS = 14
_MARGIN_PIXELS = 2
_WIDTH, _HEIGHT = 54, 18
"""The black box in pixels."""
_DIGIT_LEFTS = (2, 10, 18, 29, 37)
"""Where the digits of ``DDD.DDs`` start, in pixels from the left."""
_DIGIT_WIDTH = 8
_MAX_MEAN_ERROR = 24.0
"""Mean difference in grey levels between badge and reading; JPEG 84 makes about 5, no badge 60 and more."""


@lru_cache(maxsize=1024)
def _picture(text: str) -> NDArray[np.float32]:
    """The badge that says ``text``, grey, float32 of shape (18, 54)."""
    badge = Image.new("L", (_WIDTH, _HEIGHT))
    font = ImageFont.load_default(size=_FONT_PIXELS)
    ImageDraw.Draw(badge).text((_MARGIN_PIXELS, _MARGIN_PIXELS), text, font=font, fill=255)
    return np.asarray(badge, np.float32)


@lru_cache(maxsize=1)
def _digits() -> NDArray[np.float32]:
    """Each digit at each of its places: float32 of shape (10, 5, 18, 8)."""
    pictures = (_picture(f"{d}{d}{d}.{d}{d}s") for d in "0123456789")
    places = [[picture[:, x : x + _DIGIT_WIDTH] for x in _DIGIT_LEFTS] for picture in pictures]
    return np.array(places, np.float32)


def read_badge(tile: NDArray[np.uint8]) -> str | None:
    """The text in the top left corner of ``tile`` (height, width, 3), like ``012.50s``; None without one."""
    if tile.shape[0] < _HEIGHT or tile.shape[1] < _WIDTH:
        return None
    grey = tile[:_HEIGHT, :_WIDTH].astype(np.float32).mean(-1)
    seen = np.stack([grey[:, x : x + _DIGIT_WIDTH] for x in _DIGIT_LEFTS])
    errors = ((_digits() - seen) ** 2).sum((2, 3))
    d = [str(digit) for digit in errors.argmin(0)]
    text = f"{d[0]}{d[1]}{d[2]}.{d[3]}{d[4]}s"
    return text if np.abs(_picture(text) - grey).mean() < _MAX_MEAN_ERROR else None


def badge_seconds(badge: str) -> float:
    """The time that a badge says, in seconds."""
    return float(badge.removesuffix("s"))


_SHEETS = re.compile(
    r"(\d+) contact sheets? with (\d+) frames? in total, (\d+) columns? wide, "
    r"at most (\d+) frames? on a sheet"
)
_TIME = re.compile(r"(\d+(?:\.\d+)?) ?s\b")
_KIND_BY_TEXT = (
    ("subtasks", "subtasks"),
    ("boxes", "coordinate_probe"),
    ("detections", "vqa_bbox"),
    ("point_format", "vqa_keypoint"),
    ("relation", "vqa_spatial"),
    ("attribute", "vqa_attribute"),
    ("count", "vqa_count"),
    ("rephrasings", "rephrasings"),
    ("synonym_paraphrase", "task_axes"),
    ("memory", "memory"),
    ("interjection", "interjection"),
    ("speech", "speech"),
    ("text", "speech"),
    ("label", "label"),
    ("description", "description"),
    ("task", "task"),
)
"""A quoted key in the text and the kind it tells of, first match; for requests without a schema."""


class BadRequestError(ValueError):
    """The request can't be answered as it is; the server says so with status 400."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One frame as it was sent."""

    pixels: NDArray[np.uint8]
    """(height, width, 3), RGB."""
    badge: str | None
    """The time burned into it, such as ``012.50s``; None on a frame that is sent alone."""
    seconds: float | None
    """Its time: the badge's, else the one that the text before the picture gives."""


@dataclass(frozen=True, slots=True)
class SentImage:
    """One image part."""

    sha256: str
    """Of the encoded bytes."""
    width: int
    height: int
    tiles: tuple[Tile, ...]
    """In the order of time."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked."""

    model: str
    kind: str
    """Name of the JSON schema of the answer, such as ``subtasks``."""
    text: str
    """All text parts, joined by line feeds."""
    images: tuple[SentImage, ...]
    seed: int
    schema: Mapping[str, Any]
    """The JSON schema of the answer; empty where none is sent."""

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The tiles of all images, in order."""
        return tuple(tile for image in self.images for tile in image.tiles)

    @property
    def pick(self) -> int:
        """A number that varies with the pictures and the seed, for choosing what to ask about."""
        return self.seed + sum(int(image.sha256[:8], 16) for image in self.images)


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str


class _ImageUrl(BaseModel):
    url: str


class _ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: _ImageUrl


class _VideoPart(BaseModel):
    type: Literal["video_url"]
    video_url: _ImageUrl


_Part = Annotated[_TextPart | _ImagePart | _VideoPart, Field(discriminator="type")]


class _Message(BaseModel):
    role: str
    content: str | list[_Part]


class _JsonSchema(BaseModel):
    model_config = ConfigDict(validate_by_name=True)
    name: str
    schema_: dict[str, Any] = Field(default={}, alias="schema")


class _ResponseFormat(BaseModel):
    type: str
    json_schema: _JsonSchema | None = None


class _Body(BaseModel):
    model: str
    messages: Annotated[list[_Message], Field(min_length=1)]
    seed: int | None = None
    response_format: _ResponseFormat | None = None


@dataclass(frozen=True, slots=True)
class _SheetGrid:
    columns: int
    frames_per_sheet: int
    frame_count: int

    def frames_on(self, sheet: int) -> int:
        return min(self.frames_per_sheet, self.frame_count - sheet * self.frames_per_sheet)


def parse_request(body: dict[str, Any], media_folder: Path | None = None) -> ChatRequest:
    """Take in the decoded JSON ``body`` of a chat completion request.

    Args:
        body: the request.
        media_folder: files below it may be referred to; ``None``: none may.

    Raises:
        BadRequestError: it is no such request, a picture can't be decoded, or it fits no sheet of that size.
    """
    try:
        parsed = _Body.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadRequestError(f"{place}: {first['msg']}") from error
    parts = [part for message in parsed.messages if message.role == "user" for part in _parts(message)]
    text = "\n".join(part.text for part in parts if isinstance(part, _TextPart))
    named = parsed.response_format.json_schema if parsed.response_format else None
    return ChatRequest(
        model=parsed.model,
        kind=named.name if named else _guess_kind(text),
        text=text,
        images=tuple(_read_images(parts, _find_grid(text), media_folder)),
        seed=parsed.seed or 0,
        schema=named.schema_ if named else {},
    )


def _parts(message: _Message) -> Sequence[_TextPart | _ImagePart | _VideoPart]:
    if isinstance(message.content, str):
        return [_TextPart(type="text", text=message.content)]
    return message.content


def _guess_kind(text: str) -> str:
    for key, kind in _KIND_BY_TEXT:
        if f'"{key}"' in text:
            return kind
    raise BadRequestError("no response_format, and the text names no answer that this model knows")


def _find_grid(text: str) -> _SheetGrid | None:
    found = _SHEETS.search(text)
    if not found:
        return None
    _, frame_count, columns, frames_per_sheet = map(int, found.groups())
    if not columns or not frames_per_sheet:
        raise BadRequestError(f"contact sheets without frames: {found[0]!r}")
    return _SheetGrid(columns, frames_per_sheet, frame_count)


def _read_images(
    parts: Sequence[_TextPart | _ImagePart | _VideoPart], grid: _SheetGrid | None, media_folder: Path | None
) -> list[SentImage]:
    images: list[SentImage] = []
    words = ""
    for part in parts:
        if isinstance(part, _TextPart):
            words = part.text
            continue
        if isinstance(part, _VideoPart):
            images.append(_read_video(_fetch(part.video_url.url, media_folder)))
            continue
        encoded = _fetch(part.image_url.url, media_folder)
        pixels = _decode_image(encoded)
        tiles = _cut_sheet(pixels, grid, len(images)) if grid else (_single_frame(pixels, words),)
        digest = hashlib.sha256(encoded).hexdigest()
        images.append(SentImage(digest, pixels.shape[1], pixels.shape[0], tiles))
        words = ""
    return images


def _fetch(url: str, media_folder: Path | None) -> bytes:
    """What a URL names; of files those alone that vLLM would open, in words like its own."""
    if not url.startswith("file:"):
        return _decode_url(url)
    if media_folder is None:
        raise BadRequestError("Cannot load local files without `--allowed-local-media-path`.")
    path = Path(unquote(urlsplit(url).path)).resolve()
    if media_folder.resolve() not in path.parents:
        raise BadRequestError(
            f"The file path {path} must be a subpath of `--allowed-local-media-path {media_folder}`."
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadRequestError(f"the file can't be read: {error}") from error


def _decode_url(url: str) -> bytes:
    head, _, payload = url.partition(",")
    if not re.fullmatch(r"data:(image/[a-z]+|video/mp4);base64", head):
        raise BadRequestError(f"got a URL that starts {url[:24]!r}, expected data:image/...;base64,")
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise BadRequestError(f"the image's base64 is broken: {error}") from error


def _decode_image(encoded: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise BadRequestError(f"an image of {len(encoded)} bytes can't be decoded: {error}") from error


def _read_video(encoded: bytes) -> SentImage:
    """A video as if it were a sheet: its frames in order, each with the time at which it is shown."""
    try:
        with av.open(io.BytesIO(encoded), mode="r", format="mp4") as container:
            tiles = tuple(
                Tile(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), None, frame.time)
                for frame in container.decode(video=0)
            )
    except av.FFmpegError as error:
        raise BadRequestError(f"a video of {len(encoded)} bytes can't be decoded: {error}") from error
    if not tiles:
        raise BadRequestError(f"a video of {len(encoded)} bytes has no frames")
    height, width, _ = tiles[0].pixels.shape
    return SentImage(hashlib.sha256(encoded).hexdigest(), width, height, tiles)


def _single_frame(pixels: NDArray[np.uint8], words_before: str) -> Tile:
    times = _TIME.findall(words_before)
    return Tile(pixels, None, float(times[-1]) if times else None)


def _cut_sheet(pixels: NDArray[np.uint8], grid: _SheetGrid, sheet: int) -> tuple[Tile, ...]:
    """The tiles of a sheet, row by row; a sheet has only the columns and rows that it fills."""
    count = grid.frames_on(sheet)
    if count < 1:
        raise BadRequestError(f"sheet {sheet + 1} is one too many for {grid.frame_count} frames")
    columns = min(grid.columns, count)
    rows = -(-count // columns)
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    if (height * rows, width * columns) != pixels.shape[:2]:
        raise BadRequestError(
            f"sheet {sheet + 1} is {pixels.shape[1]}x{pixels.shape[0]} px, which {rows} rows of {columns} "
            "equal tiles don't fill"
        )
    places = (divmod(place, columns) for place in range(count))
    return tuple(
        _badged(pixels[row * height : (row + 1) * height, column * width : (column + 1) * width])
        for row, column in places
    )


def _badged(pixels: NDArray[np.uint8]) -> Tile:
    badge = read_badge(pixels)
    return Tile(pixels, badge, badge_seconds(badge) if badge else None)
