"""How the answers to requests for frames of the torture corpus are judged.

    python -m tests.component.worker.video.torture

prints for each backend and kind of video how many frames were asked for and what came.

A frame that is given must be

* the picture that the undamaged video shows at that time (``exact``), or
* precisely what the ffmpeg program decodes there from the same damaged file, in a run of its own from the
  start of the file that ends at the first damage it notices (``as ffmpeg``): a bit that turned one valid
  picture into another can't be noticed by anybody.

So a picture that was patched up after damage had been noticed (a decoder's error, a frame that it marks as
corrupt) is ``wrong``, and so is one that was decoded from such a picture: no frame, no claim. "The same"
means: no colour of any pixel differs by more than 3 of 255.

A request that is refused must be so by a ``FrameDecodeError`` (``refused``), in time, and not while that
strict run of ffmpeg gives the undamaged pictures for all of its frames (``owed``).

Where the times in a file contradict each other, ffmpeg's own tools do too: the PTS that ffmpeg works with and
those that its decoder gives are then both right, and nothing is owed. Nor is it where the file's index is
damaged, which says where decoding can start: ffmpeg reads from the start, a decoder that seeks can't know.

FFmpeg's HEVC decoder reports little: a slice that ends too early passes for a whole one, and the rest of
the picture is what the buffer happened to hold; torchcodec can't even be told to be strict. So where ffmpeg
has no undamaged picture of an HEVC video either, a picture is ``unnoticed``; more than a few of those are an
error (threads that share a picture made dozens).
"""

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.component.worker.video.frames_stress import CrashCount
from tests.support.ffmpeg_truth import DecodedFile, decode_everything, frame_pts, nearest_places
from tests.support.torture_corpus import TortureVideo, make_intact_videos
from tests.support.torture_damage import HEVC_NAME, IN_THE_INDEX, DamagedVideo, make_damaged_videos
from tests.support.video_assets import CAMERA, shown_number

from annotationrun_worker.dataset.types import EpisodeIndex, VideoSpan
from annotationrun_worker.errors import FrameDecodeError
from annotationrun_worker.video.backends import BACKENDS, make_decoder
from annotationrun_worker.video.decoder import Decoder, EpisodeVideo

COLOUR_LEVELS = 3
DEADLINE_SECONDS = 150.0
"""Longest time that a request may take: longer than the decoders' own limits."""

BATCH_FRAMES = 150
SINGLE_FRAMES = 3
TOLERANCE_OF_GAP = 0.45
JITTER_OF_GAP = 0.4
THREADS = 2

VERDICTS = ("exact", "as ffmpeg", "refused", "unnoticed", "owed", "wrong", "untyped", "late")
GOOD = frozenset(VERDICTS[:4])
UNNOTICED_AT_MOST = 0.01
"""Of the frames that are asked of damaged videos."""

Pictures = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a request: a verdict for each of its frames."""

    kind: str
    verdicts: tuple[str, ...]
    what: str
    """File, frames and error, for people."""

    @property
    def is_bad(self) -> bool:
        """Whether a verdict must not be."""
        return not GOOD.issuperset(self.verdicts)


@dataclass(frozen=True)
class DamagedTruth:
    """A damaged video, and what ffmpeg makes of it at the times that are asked for."""

    video: DamagedVideo
    intact: Mapping[int, Pictures]
    """The undamaged picture, by number of the frame."""
    strict: Mapping[int, Sequence[Pictures]]
    """What the strict run gives there."""

    @cached_property
    def strict_by_frame_pts(self) -> Mapping[int, Sequence[Pictures]]:
        """The same by the PTS that the decoder gives; made only where these can matter."""
        decoded = decode_everything(self.video.path, strict=True)
        pts = frame_pts(self.video.path)[: len(decoded.pts_seconds)]
        return _asked(self.video, DecodedFile(pts, decoded.pictures[: len(pts)]))

    def is_owed(self, number: int) -> bool:
        """Whether ffmpeg gives the undamaged picture, by either PTS."""
        return (
            self.video.kind != IN_THE_INDEX
            and self._is_well(number, self.strict)
            and self._is_well(number, self.strict_by_frame_pts)
        )

    def verdict(self, number: int, picture: Pictures) -> str:
        """What to think of ``picture`` as frame ``number``."""
        if alike(picture, self.intact[number]):
            return "exact"
        if any(alike(picture, other) for other in self.strict[number]):
            return "as ffmpeg"
        if any(alike(picture, other) for other in self.strict_by_frame_pts[number]):
            return "as ffmpeg"
        is_hevc = self.video.intact.name == HEVC_NAME
        return "unnoticed" if is_hevc and not self._is_well(number, self.strict) else "wrong"

    def _is_well(self, number: int, there: Mapping[int, Sequence[Pictures]]) -> bool:
        pictures = there[number]
        return bool(pictures) and all(alike(picture, self.intact[number]) for picture in pictures)


def alike(one: Pictures, other: Pictures) -> bool:
    """Whether no colour differs by more than ``COLOUR_LEVELS``."""
    return one.shape == other.shape and _difference(one, other) <= COLOUR_LEVELS


def ask(
    decoder: Decoder, path: Path, targets: NDArray[np.float64], tolerances: NDArray[np.float64]
) -> Pictures:
    """Frames of a file that is an episode of its own, as the frame provider asks for them."""
    video = EpisodeVideo(
        EpisodeIndex(0), CAMERA, VideoSpan(path, 0.0, float(targets[-1]) + 1.0), len(targets)
    )
    return decoder.frames(video, targets, tolerances)


def decode_intact(videos: Iterable[TortureVideo]) -> dict[str, DecodedFile]:
    """What ffmpeg makes of each video, by name; the strict run, as all of it must be well."""
    with ThreadPoolExecutor(THREADS) as pool:
        listed = list(videos)
        decoded = pool.map(lambda video: decode_everything(video.path, strict=True), listed)
        return {video.name: truth for video, truth in zip(listed, decoded, strict=True)}


def decode_damaged(videos: Sequence[DamagedVideo]) -> list[DamagedTruth]:
    """What ffmpeg makes of each video at the times that are asked for."""
    originals = {video.intact.path: video.intact for video in videos}
    intact = {path: decode_everything(path) for path in originals}

    def truth(video: DamagedVideo) -> DamagedTruth:
        pictures = {n: there[0] for n, there in _asked(video, intact[video.intact.path]).items()}
        return DamagedTruth(video, pictures, _asked(video, decode_everything(video.path, strict=True)))

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(truth, videos))


def judge_intact(decoder: Decoder, video: TortureVideo, truth: DecodedFile) -> Iterator[Finding]:
    """Ask for all frames in order, then for some one by one, to and fro and beside their times."""
    targets, tolerances = video.targets_seconds(), TOLERANCE_OF_GAP * video.gaps_seconds()
    everything = np.arange(len(targets))
    requests = [everything[start : start + BATCH_FRAMES] for start in range(0, len(targets), BATCH_FRAMES)]
    draw = np.random.default_rng(len(targets))
    requests += [draw.choice(everything, 1) for _ in range(SINGLE_FRAMES)]
    jitter = draw.uniform(-JITTER_OF_GAP, JITTER_OF_GAP, len(targets)) * video.gaps_seconds()
    for number, frames in enumerate(requests):
        shift = jitter[frames] if number % 2 else 0.0
        what = f"{video.name}, frames {frames[0]} to {frames[-1]}"
        try:
            started = time.monotonic()
            pictures = ask(decoder, video.path, targets[frames] + shift, tolerances[frames])
            seconds = time.monotonic() - started
        except Exception as error:  # noqa: BLE001  (any error is a finding)
            yield Finding(video.name, ("owed",) * len(frames), f"{what}: {error!r}")
            continue
        expected = [truth.at(video.pts_seconds[frame], tolerances[frame])[0] for frame in frames]
        numbers = [shown_number(picture) for picture in pictures]
        verdicts = [
            "exact" if alike(picture, there) and shown == video.numbers[frame] else "wrong"
            for frame, picture, there, shown in zip(frames, pictures, expected, numbers, strict=True)
        ]
        worst = max(_difference(*pair) for pair in zip(pictures, expected, strict=True))
        misread = sum(shown != video.numbers[frame] for frame, shown in zip(frames, numbers, strict=True))
        verdicts = ["late"] * len(frames) if seconds > DEADLINE_SECONDS else verdicts
        yield Finding(video.name, tuple(verdicts), f"{what}: {misread} misread, colours {worst} off")


def judge_damaged(decoder: Decoder, truth: DamagedTruth) -> list[Finding]:
    """Ask for what the video says is to be asked of it."""
    return [_judge_request(decoder, truth, frames) for frames in truth.video.requests]


def judge_all_damaged(decoder: Decoder, truths: Sequence[DamagedTruth]) -> list[Finding]:
    """The same for many videos, from several threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [
            finding for found in pool.map(lambda t: judge_damaged(decoder, t), truths) for finding in found
        ]


def complaints(findings: Sequence[Finding]) -> list[str]:
    """What must not be, a line each."""
    bad = [f"{finding.verdicts} {finding.what}" for finding in findings if finding.is_bad]
    verdicts = [verdict for finding in findings for verdict in finding.verdicts]
    if not verdicts:
        bad.append("nothing was asked for")
    unnoticed = verdicts.count("unnoticed")
    if unnoticed > UNNOTICED_AT_MOST * len(verdicts):
        bad.append(f"{unnoticed} of {len(verdicts)} frames are unnoticed")
    return bad


def table(findings: Iterable[Finding]) -> str:
    """How many frames met with which verdict, by kind of video."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for finding in findings:
        counts[finding.kind].update(finding.verdicts)
    lines = [f"{'':34}{'asked':>10}" + "".join(f"{verdict:>10}" for verdict in VERDICTS)]
    for kind, found in counts.items():
        lines.append(f"{kind:34}{found.total():>10}" + "".join(f"{found[v]:>10}" for v in VERDICTS))
    return "\n".join(lines)


def _judge_request(decoder: Decoder, truth: DamagedTruth, frames: tuple[int, ...]) -> Finding:
    video, intact = truth.video, truth.video.intact
    chosen = list(frames)
    what = f"{video.path.name}, frames {chosen}"
    started = time.monotonic()
    try:
        tolerances = TOLERANCE_OF_GAP * intact.gaps_seconds()[chosen]
        pictures = ask(decoder, video.path, intact.targets_seconds()[chosen], tolerances)
    except FrameDecodeError as error:
        verdict = "owed" if all(truth.is_owed(number) for number in frames) else "refused"
        verdicts, what = (verdict,) * len(frames), f"{what}: {error}"
    except Exception as error:  # noqa: BLE001  (any error is a finding)
        verdicts, what = ("untyped",) * len(frames), f"{what}: {error!r}"
    else:
        verdicts = tuple(truth.verdict(n, picture) for n, picture in zip(frames, pictures, strict=True))
        what += f" show {[shown_number(picture) for picture in pictures]}"
    if time.monotonic() - started > DEADLINE_SECONDS:
        verdicts = ("late",) * len(frames)
    return Finding(video.kind, verdicts, what)


def _asked(video: DamagedVideo, decoded: DecodedFile) -> dict[int, list[Pictures]]:
    """The pictures at the times of the frames that are asked for: copies, that the rest can be forgotten."""
    times, tolerances = video.intact.pts_seconds, TOLERANCE_OF_GAP * video.intact.gaps_seconds()
    numbers = {number for request in video.requests for number in request}
    places = {n: nearest_places(decoded.pts_seconds, float(times[n]), float(tolerances[n])) for n in numbers}
    return {n: [decoded.pictures[place].copy() for place in there] for n, there in places.items()}


def _difference(one: Pictures, other: Pictures) -> int:
    return int(np.abs(one.astype(np.int16) - other).max())


def main(arguments: Sequence[str]) -> int:
    """Print the tables; 0 if nothing is bad."""
    parser = argparse.ArgumentParser(
        description="Ask for frames of the torture corpus, and judge what comes."
    )
    parser.add_argument("--backend", action="append", choices=list(BACKENDS))
    backends = parser.parse_args(arguments).backend or list(BACKENDS)
    bad: list[str] = []
    crashes = CrashCount()
    logging.getLogger("annotationrun_worker.video").addHandler(crashes)
    with tempfile.TemporaryDirectory() as folder:
        intact = make_intact_videos(Path(folder))
        wholes, truths = decode_intact(intact), decode_damaged(make_damaged_videos(Path(folder)))
        for backend in backends:
            started = time.monotonic()
            with closing(make_decoder(backend)) as decoder:
                findings = [f for video in intact for f in judge_intact(decoder, video, wholes[video.name])]
                findings += judge_all_damaged(decoder, truths)
            print(
                f"{backend}: {time.monotonic() - started:.0f} s, {crashes.count} crashes\n{table(findings)}\n"
            )
            crashes.count = 0
            bad += complaints(findings)
            print("".join(f"  {line[:600]}\n" for line in complaints(findings)), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
