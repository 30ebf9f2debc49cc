"""Videos of every kind, damaged ones, and files that vanish: the right frame or a typed error, in time.

``tests.component.worker.video.torture`` tells by which rule an answer is right; it also prints the counts.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.component.worker.video.torture import (
    DEADLINE_SECONDS,
    ask,
    complaints,
    decode_damaged,
    decode_intact,
    judge_all_damaged,
    judge_intact,
    table,
)
from tests.support.torture_corpus import FPS, H264, facts_of, make_intact_videos, small
from tests.support.torture_damage import AV1_NAME, IN_A_PICTURE, make_damaged_videos, make_no_videos
from tests.support.video_assets import shown_number, write_pictures

from annotationrun_worker.errors import FrameDecodeError, FrameMissingError
from annotationrun_worker.video.backends import make_decoder
from annotationrun_worker.video.decoder import Decoder

LONG = "H.264, B-frames, g=250"
OTHER_NUMBERS = 300
"""What the frames of the other video show more than those of the first."""


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    return {video.name: video for video in make_intact_videos(tmp_path_factory.mktemp("intact"))}


@pytest.fixture(scope="module")
def decoded(intact):
    return decode_intact(intact.values())


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return decode_damaged(make_damaged_videos(tmp_path_factory.mktemp("torture")))


def test_the_videos_are_what_they_are_called_and_ffmpeg_decodes_them_all(intact, decoded):
    assert {name: facts_of(video.path) for name, video in intact.items()} == {
        name: video.facts for name, video in intact.items()
    }
    for name, video in intact.items():
        shown = [decoded[name].at(seconds, 0.002) for seconds in video.pts_seconds]
        assert [[shown_number(picture) for picture in there] for there in shown] == [
            [number] for number in video.numbers
        ], name


def test_every_frame_of_every_kind_of_video_is_exact(intact, decoded, decoder):
    findings = [
        finding for name, video in intact.items() for finding in judge_intact(decoder, video, decoded[name])
    ]
    print(table(findings))
    assert complaints(findings) == []
    assert {finding.kind for finding in findings} == intact.keys()
    assert {verdict for finding in findings for verdict in finding.verdicts} == {"exact"}


def test_a_time_at_which_no_frame_is_shown_is_an_error(intact, decoder):
    for video in intact.values():
        gap = float(video.gaps_seconds().min())
        for seconds in (float(video.pts_seconds[-1]) + gap, float(video.pts_seconds[0]) - gap):
            if seconds < 0:
                continue
            with pytest.raises(FrameMissingError):
                ask(decoder, video.path, np.array([seconds]), np.array([0.45 * gap]))


def test_a_damaged_video_gives_right_frames_or_errors(damaged, decoder):
    """50 truncated videos, 200 with a flipped bit; files are asked for side by side."""
    assert len(damaged) == 250
    findings = judge_all_damaged(decoder, damaged)
    print(table(findings))
    assert complaints(findings) == []
    verdicts = [verdict for finding in findings for verdict in finding.verdicts]
    assert min(verdicts.count("exact"), verdicts.count("refused")) > len(verdicts) / 10


def test_what_the_library_finds_damaged_the_ffmpeg_program_is_not_asked_for(damaged):
    """An older ffmpeg may give a picture of it, that the newer library knows to be damaged."""
    refused, claimed = 0, []
    with closing(make_decoder("pyav")) as library, closing(make_decoder("auto")) as default:
        for truth in damaged:
            if (truth.video.kind, truth.video.intact.name) != (IN_A_PICTURE, AV1_NAME):
                continue
            by_library, by_default = (judge_all_damaged(decoder, [truth]) for decoder in (library, default))
            refused += sum("refused" in one.verdicts for one in by_library)
            claimed += [
                two.what
                for one, two in zip(by_library, by_default, strict=True)
                if "refused" in one.verdicts and not {"refused", "exact"}.issuperset(two.verdicts)
            ]
    assert refused > 0
    assert claimed == []


def test_a_file_that_is_no_video_is_an_error(tmp_path, decoder):
    for name, path in make_no_videos(tmp_path).items():
        for seconds in (0.0, 1.0):
            with pytest.raises(FrameDecodeError) as caught:
                ask(decoder, path, np.array([seconds]), np.array([0.01]))
            assert str(path) in str(caught.value), name


@pytest.fixture(scope="module")
def two_videos(intact, tmp_path_factory):
    """The second shows other numbers at the same times."""
    first = intact[LONG]
    second = tmp_path_factory.mktemp("other") / "other.mp4"
    numbers = (number + OTHER_NUMBERS for number in first.numbers)
    write_pictures(second, map(small, numbers), [i / FPS for i in first.numbers], options=dict(H264))
    return first.path, second


def _put(content: Path, path: Path) -> None:
    """Replace the file at once, as a download does that is moved into its place."""
    new = path.with_suffix(".new")
    new.write_bytes(content.read_bytes())
    new.replace(path)


def _put_text(path: Path) -> None:
    path.with_suffix(".new").write_text("this is no video\n" * 1000, encoding="utf-8")
    path.with_suffix(".new").replace(path)


def test_a_file_that_vanishes_or_changes_while_it_is_read(tmp_path, two_videos, decoder):
    """Two threads ask without end; what they are given must have been the file's at some time.

    Each change is made as soon as one of them has an answer, while the other one waits for its own.
    """
    first, second = two_videos
    path = tmp_path / "vanishing.mp4"
    _put(first, path)
    changes: list[Callable[[], None]] = [
        path.unlink,
        lambda: _put(second, path),
        lambda: os.truncate(path, path.stat().st_size // 2),
        lambda: _put(first, path),
        lambda: os.truncate(path, 0),
        lambda: _put_text(path),
        lambda: _put(second, path),
        path.unlink,
        lambda: _put(first, path),
        lambda: _put(second, path),
    ]
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        asking = [_Asking(decoder, path, stop) for _ in range(2)]
        answers = [pool.submit(one.ask_until_stopped) for one in asking]
        try:
            for change in changes:
                for one in asking:
                    one.wait_for_an_answer()
                change()
            for one in asking:
                one.wait_for_an_answer()
        finally:
            stop.set()
        found = [finding for answer in answers for finding in answer.result(DEADLINE_SECONDS)]
    assert [finding for finding in found if finding not in {"right", "refused"}] == []
    assert {"right", "refused"} == set(found)
    frames = ask(decoder, path, np.array([1.0]), np.array([0.01]))
    assert shown_number(frames[0]) == 30 + OTHER_NUMBERS, "the file as it was before the last change"


class _Asking:
    """A thread's requests for frames spread over the file."""

    def __init__(self, decoder: Decoder, path: Path, stop: threading.Event) -> None:
        self._decoder = decoder
        self._path = path
        self._stop = stop
        self._answered = threading.Semaphore(0)

    def wait_for_an_answer(self) -> None:
        """Wait for the second answer from now on: its request began after now."""
        while self._answered.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self._answered.acquire(timeout=DEADLINE_SECONDS), "no answer in time"

    def ask_until_stopped(self) -> list[str]:
        """What came of each request: right, refused, or what was wrong."""
        return list(self._answers())

    def _answers(self) -> Iterator[str]:
        wanted = np.arange(0, 300, 29)
        while not self._stop.is_set():
            try:
                frames = ask(self._decoder, self._path, wanted / FPS, np.full(len(wanted), 0.01))
            except FrameDecodeError:
                yield "refused"
            except Exception as error:  # noqa: BLE001  (any error is a finding)
                yield repr(error)
            else:
                shown = [shown_number(frame) for frame in frames]
                right = all(s in {n, n + OTHER_NUMBERS} for s, n in zip(shown, wanted, strict=True))
                yield "right" if right else f"shows {shown}"
            finally:
                self._answered.release()
