"""What all modules of an episode are given and have in common.

Text in the model's answers: without space around it, fit to be stored, and no longer than its kind may be.

A model that is caught in a loop fills whatever its token limit leaves it. The limits here are several times
what a good answer needs, so that only such an answer is refused. They are checked when the answer is read,
and are no part of the JSON schema that the server gets: a grammar would cut the text at its limit, and the
cut text would pass for a good one.

How many pixels are in memory at once, over all episodes of a run.

The prompts: plain text files beside this module, one per use, with ``{placeholders}``.

A run may put texts of its own in the place of shipped ones, and may ask for another language.

What every module of an episode is given.

Waiting for several questions of one episode at once.
"""

import asyncio
import random
import re
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError

from annotationrun_worker.dataset.types import CameraKey, EpisodeRecord
from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.staging.digests import Digest, digest_bytes
from annotationrun_worker.video.provider import BATCH_BYTES, FrameProvider
from annotationrun_worker.vlm.ask import Asker
from annotationrun_worker.vlm.messages import ContentPart, to_video_url_block

MAX_LABEL_CHARACTERS: Final = 300
"""Of what names one thing: a subtask, an object, a property, its value. The prompts ask for a short
imperative or a name; a careful one that also tells colour, place and arm has about 100 characters."""
MAX_SENTENCE_CHARACTERS: Final = 1_000
"""Of what is said or asked: an interjection, speech, a question, a note. The prompts ask for one short
sentence; 1,000 characters take a minute to speak."""
MAX_TASK_CHARACTERS: Final = 2_000
"""Of a task that is derived, and of the variants of one: they are as long as the task itself, and a dataset
may spell its own out in a paragraph."""
MAX_MEMORY_CHARACTERS: Final = 4_000
"""Of the memory, which grows with each subtask: a sentence for each of some forty subtasks. The next memory
is made from it, so one that has run wild would spoil all that follow."""
MAX_DESCRIPTION_CHARACTERS: Final = 8_000
"""Of the description of a window: some hundred characters for each of 60 frames. It becomes part of the next
prompt, where it takes about 2,000 tokens."""


def _not_blank(text: str) -> str:
    # pydantic's idea of space is narrower than that of str
    if not text.strip():
        raise ValueError("it is blank")
    return text.strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _at_most(characters: int, kind: str) -> AfterValidator:
    """Refuses a text that is longer; ``kind`` says what it should have been."""

    def check(text: str) -> str:
        if len(text) <= characters:
            return text
        raise PydanticCustomError(
            "text_too_long",
            "it has {length} characters, expected {kind} of at most {limit}",
            {"length": len(text), "kind": kind, "limit": characters},
        )

    return AfterValidator(check)


AnyText = Annotated[str, StringConstraints(strip_whitespace=True)]
"""May be empty, where the module leaves out what is."""
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_not_blank)]
Line = Annotated[Text, AfterValidator(_one_line)]
"""Text whose line breaks and runs of space become one space each."""

_LABEL = _at_most(MAX_LABEL_CHARACTERS, "a short label")
_SENTENCE = _at_most(MAX_SENTENCE_CHARACTERS, "one short sentence")
_TASK = _at_most(MAX_TASK_CHARACTERS, "one instruction")

AnyLabel = Annotated[AnyText, _LABEL]
Label = Annotated[Text, _LABEL]
LabelLine = Annotated[Line, _LABEL]
AnySentence = Annotated[AnyText, _SENTENCE]
Sentence = Annotated[Text, _SENTENCE]
SentenceLine = Annotated[Line, _SENTENCE]
AnyTask = Annotated[AnyText, _TASK]
TaskLine = Annotated[Line, _TASK]
MemoryLine = Annotated[Line, _at_most(MAX_MEMORY_CHARACTERS, "one or two sentences")]
Description = Annotated[Text, _at_most(MAX_DESCRIPTION_CHARACTERS, "a description")]


LOOKS_AT_ONCE: Final = 2
"""Decoded and encoded side by side: keeps both cores of a small machine busy, and few pixels in memory."""
LOOK_BYTES: Final = 256 * 1024**2
"""Of frames in all looks together: two of 40 frames at 1080p, or one of two at 8K."""


class Looks:
    """The looks under way, for one event loop; who came first looks first."""

    def __init__(self, most: int = LOOKS_AT_ONCE, most_bytes: int = LOOK_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self._under_way = 0
        self._bytes = 0

    def frames_at_once(self, frames: int, frame_bytes: int) -> int:
        """How many of ``frames`` are to be looked at together, one at least."""
        return max(min(frames, self._most_bytes // max(frame_bytes, 1)), 1)

    @asynccontextmanager
    async def held(self, size_bytes: int) -> AsyncIterator[None]:
        """Have room for frames of so many bytes; a look that is larger than all room is alone."""
        async with self._turn:
            while self._under_way and not self._has_room(size_bytes):
                self._freed.clear()
                await self._freed.wait()
            self._under_way += 1
            self._bytes += size_bytes
        try:
            yield
        finally:
            self._under_way -= 1
            self._bytes -= size_bytes
            self._freed.set()

    def _has_room(self, size_bytes: int) -> bool:
        return self._under_way < self._most and self._bytes + size_bytes <= self._most_bytes


_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
SHIPPED_LANGUAGE = "English"

_FRAMES: Final = {"shown": "what the frames are, and where their times are written"}
_COORDINATES: Final = {"coordinates": "the unit of the coordinates"}
NEEDED: Final[Mapping[str, Mapping[str, str]]] = {
    "coordinate_probe": _COORDINATES,
    "description": _FRAMES,
    "interjection": {"next": "the subtask that is to be asked for"},
    "label": {
        **_FRAMES,
        "label": "the label that is to be checked",
        "start_seconds": "when the subtask begins",
        "end_seconds": "when the subtask ends",
    },
    "memory": {"finished": "the subtask just finished", "memory": "the memory so far"},
    "rephrasings": {"task": "the instruction that is to be rephrased"},
    "subtasks": {**_FRAMES, "window_seconds": "how many seconds are shown"},
    "task": _FRAMES,
    "task_axes": {"task": "the instruction that is to be varied"},
    "vqa_bbox": _COORDINATES,
    "vqa_keypoint": _COORDINATES,
}
"""By prompt, the placeholders without which no answer to it can be right, and what each tells the model."""


@lru_cache(maxsize=1)
def shipped_names() -> tuple[str, ...]:
    """The names of the shipped prompts, sorted."""
    folder = files("annotationrun_worker.modules") / "prompts"
    return tuple(sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir()))


@lru_cache
def read_prompt(name: str) -> str:
    """The text of the shipped prompt ``name``."""
    return (files("annotationrun_worker.modules") / "prompts" / f"{name}.txt").read_text(encoding="utf-8")


def placeholders(text: str) -> list[str]:
    """The names in braces, each once, in order."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(text)))


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a run; make one with ``make_prompts`` where texts come from outside."""

    overrides: Mapping[str, str] = field(default_factory=dict)
    """Texts in place of shipped ones, by name."""
    output_language: str = SHIPPED_LANGUAGE

    def text(self, name: str) -> str:
        """The text of the prompt ``name``, its placeholders not filled."""
        text = self.overrides.get(name) or read_prompt(name)
        if self.output_language == SHIPPED_LANGUAGE:
            return text
        return (
            f"{text.rstrip()}\nWrite all text of the answer in {self.output_language}; the keys of the JSON "
            "object, and values that are given above as a fixed list, stay as they are.\n"
        )

    def digests(self, names: Iterable[str]) -> dict[str, Digest]:
        """By name, the SHA-256 of each prompt's text: a changed prompt is a changed result."""
        return {name: digest_bytes(self.text(name).encode()) for name in names}

    def fill(self, name: str, values: Mapping[str, object]) -> str:
        """The prompt ``name`` with its placeholders replaced by ``values``.

        Braces that are no placeholder (the JSON examples) stay as they are. Values are not searched again,
        so a task text with braces does no harm.

        Raises:
            KeyError: the prompt has a placeholder that ``values`` lacks.
        """
        return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), self.text(name))


def make_prompts(overrides: Mapping[str, str], output_language: str) -> Prompts:
    """The prompts of a manifest: ``spec.prompts`` and ``spec.outputLanguage``.

    Raises:
        ConfigurationError: there is no prompt of a name; a text has a placeholder that its prompt does not
            know, or leaves out one of ``NEEDED``.
    """
    for name, text in overrides.items():
        if name not in shipped_names():
            raise ConfigurationError(
                f"spec.prompts names {name!r}, which is no prompt; there are {', '.join(shipped_names())}"
            )
        _check_placeholders(name, text)
    return Prompts(dict(overrides), output_language)


def _check_placeholders(name: str, text: str) -> None:
    found, known = placeholders(text), placeholders(read_prompt(name))
    unknown = [placeholder for placeholder in found if placeholder not in known]
    if unknown:
        raise ConfigurationError(
            f"spec.prompts.{name} has the placeholder {{{unknown[0]}}}, which it does not know; "
            f"it may use {', '.join(map(_braced, known))}"
        )
    missing = [f"{_braced(it)} ({why})" for it, why in NEEDED.get(name, {}).items() if it not in found]
    if missing:
        raise ConfigurationError(
            f"spec.prompts.{name} leaves out {', '.join(missing)}: the answers can't be right without it; "
            f"add it as the shipped prompt has it (annotationrun_worker/modules/prompts/{name}.txt), or "
            f"remove spec.prompts.{name}"
        )


def override_warnings(overrides: Mapping[str, str]) -> list[str]:
    """What texts in the place of shipped ones leave out and can do without; ``overrides`` was checked."""
    warnings = []
    for name, text in overrides.items():
        found, known = placeholders(text), placeholders(read_prompt(name))
        missing = ", ".join(_braced(placeholder) for placeholder in known if placeholder not in found)
        if missing:
            warnings.append(
                f"spec.prompts.{name} leaves out {missing}, which the shipped prompt has: the model is asked "
                "without this information, so its answers may be poorer"
            )
    return warnings


def _braced(placeholder: str) -> str:
    return f"{{{placeholder}}}"


Made = TypeVar("Made")

NO_TASK = "not given"
"""What the prompts name where the dataset has no task and none is derived."""


@dataclass(frozen=True, slots=True)
class EffectiveTask:
    """The task that all prompts of an episode name: the dataset's, or the one seen in the frames."""

    text: str
    """May be empty: the dataset has none, and none was to be derived."""
    request: Digest | None = None
    """The request that it was derived by; ``None`` for the dataset's own."""


@dataclass(frozen=True, slots=True)
class SubtaskStart:
    """A subtask as the modules that build on it know it."""

    frame: int
    """Its first frame, 0-based in the episode."""
    text: str


@dataclass(frozen=True, slots=True)
class EpisodeContext:
    """One episode, its frames, what is known of it, and a way to ask."""

    episode: EpisodeRecord
    frames: FrameProvider
    asker: Asker
    seed: int
    fingerprint: str
    task: EffectiveTask
    prompts: Prompts = field(default_factory=Prompts)
    subtasks: Sequence[SubtaskStart] = ()
    """For modules that build on subtasks, in order; none where there are none."""
    looking: Looks = field(default_factory=Looks)
    """Shared by all episodes of a run."""

    async def look(
        self,
        frame_indices: Sequence[int],
        camera: CameraKey,
        make: Callable[[NDArray[np.uint8]], Made],
        tile_width_pixels: int | None = None,
    ) -> Made:
        """Decode frames, and make of them what goes into a prompt: the pixels are gone when this returns.

        ``make`` gets them as uint8 (n, height, width, 3) RGB, in order, or tiles of that width.
        It runs in a thread, as does the decoding. Only so many looks are under way at once, and so many bytes
        of frames in memory (see ``Looks``), however many episodes are.

        Raises:
            FrameDecodeError: a frame can't be decoded; ``make`` does not run then.
        """

        def decode_and_make() -> Made:
            if tile_width_pixels is None:
                return make(self.frames.pictures_by_index(self.episode, frame_indices, camera))
            return make(self.frames.tiles_by_index(self.episode, frame_indices, tile_width_pixels, camera))

        frame_bytes = self.frames.frame_bytes(camera, tile_width_pixels)
        async with self.looking.held(frame_bytes * len(frame_indices)):
            return await asyncio.to_thread(decode_and_make)

    def frames_at_once(self, frames: int, camera: CameraKey) -> int:
        """How many whole frames are to be looked at together: ``frames``, or fewer of a large camera."""
        return self.looking.frames_at_once(frames, self.frames.frame_bytes(camera))

    async def clip(self, frame_indices: Sequence[int], fps: float, camera: CameraKey) -> ContentPart:
        """The frames (increasing) as a video part, ``fps`` of them a second.

        Raises:
            FrameDecodeError: a frame can't be decoded.
        """

        def make() -> ContentPart:
            return to_video_url_block(self.frames.frames_clip_path(self.episode, frame_indices, fps, camera))

        # They are decoded and encoded some at a time.
        size_bytes = max(BATCH_BYTES, self.frames.frame_bytes(camera))
        async with self.looking.held(size_bytes):
            return await asyncio.to_thread(make)

    def prompt(self, name: str, **values: object) -> str:
        """The prompt ``name``, filled in with ``values`` and the effective task."""
        return self.prompts.fill(name, {"task": self.task.text.strip() or NO_TASK, **values})

    def seconds(self, frame: int) -> float:
        """The time of a frame."""
        return float(self.episode.timestamps_seconds[frame])

    def random(self, module: str) -> random.Random:
        """The module's own generator: the same for the same content, whatever the episode's number."""
        return random.Random(f"{self.seed}:{self.fingerprint}:{module}")  # noqa: S311  a draw, not a secret


@dataclass(frozen=True, slots=True)
class UnansweredQuestion:
    """A question whose answer stayed unusable; the episode goes on without it."""

    frame: int
    camera: str | None
    kind: str
    cause: str


Outcome = TypeVar("Outcome")


async def finish_all(awaitables: Iterable[Awaitable[Outcome]]) -> list[Outcome]:
    """Wait for all of them, side by side; then raise the first error, if there is one.

    Where one fails, the answers of the others are still awaited, and so staged: another try asks only for
    what is missing, and nothing goes on behind it.
    """
    outcomes = await asyncio.gather(*awaitables, return_exceptions=True)
    done: list[Outcome] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        done.append(outcome)
    return done


async def finish_batches(
    batches: AsyncIterable[Iterable[Coroutine[Any, Any, Outcome]]], ahead: int
) -> list[Outcome]:
    """Wait for all of all batches, side by side; then raise the first error, as ``finish_all`` does.

    A batch may be dear to make (frames to decode), and large (their pictures): the next one is made while
    fewer than ``ahead`` of those begun are unfinished, and none after an error.

    Raises:
        Exception: the first error of a task, in their order; else the one of ``batches`` themselves.
    """
    begun: list[asyncio.Task[Outcome]] = []
    unfinished: set[asyncio.Task[Outcome]] = set()
    try:
        async for batch in batches:
            new = [asyncio.create_task(one) for one in batch]
            begun += new
            unfinished.update(new)
            while len(unfinished) >= ahead and not any(map(_failed, begun)):
                _, unfinished = await asyncio.wait(unfinished, return_when=asyncio.FIRST_COMPLETED)
            if any(map(_failed, begun)):
                break
    except asyncio.CancelledError:
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
        raise
    except Exception:
        await finish_all(begun)
        raise
    return await finish_all(begun)


def _failed(task: asyncio.Task[Outcome]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
