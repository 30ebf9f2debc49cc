"""Faults put into the worker on purpose, one at a time: the tests must find each of them.

`make mutants` copies the worker's source, changes one place in the copy, and runs the tests that guard it
against that copy. A mutant is killed when a test fails; tests that can't even be collected don't count. First
the unchanged copy must pass, else nothing is proved.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
JOIN = "tests/component/worker/annotate/test_rows_match_pixels.py"
REFERENCE = (JOIN, "-k", "every_row_speaks")
SECOND_LOOKS = (JOIN, "-k", "second_labels")
OTHER_INPUTS = (JOIN, "-k", "one_by_one")
TESTS_FAILED = 1
"""pytest's exit status: collected, run, and some failed."""


@dataclass(frozen=True)
class Mutant:
    """One fault: in `module`, `old` (which stands there exactly once) becomes `new`."""

    name: str
    module: str
    old: str
    new: str
    tests: Sequence[str] = REFERENCE
    """Arguments of pytest."""


MUTANTS = (
    Mutant(
        "decode shifted by one frame",
        "frames/provider.py",
        "targets[batch], tolerances[batch]",
        "targets[np.minimum(batch + 1, len(targets) - 1)], tolerances[batch]",
    ),
    Mutant(
        "cameras swapped",
        "frames/provider.py",
        "episode.videos.get(self._known(camera))",
        "episode.videos.get(self.camera_keys[1 - self.camera_keys.index(camera)])",
    ),
    Mutant(
        "badges shifted by one tile",
        "annotate/sheets.py",
        "enumerate(zip(tiles, seconds, strict=True))",
        "enumerate(zip(tiles, [*seconds[1:], seconds[-1]], strict=True))",
    ),
    Mutant(
        "window offset by half a second",
        "annotate/spans.py",
        "start_seconds=window.zero_seconds + min(max(start, 0.0), window.seconds)",
        "start_seconds=window.zero_seconds + 0.5 + min(max(start, 0.0), window.seconds)",
    ),
    Mutant(
        "second window counted from the episode's start",
        "annotate/sampling.py",
        "zero_seconds=float(timestamps_seconds[part[0]])",
        "zero_seconds=float(timestamps_seconds[0])",
    ),
    Mutant(
        "wrong episode offset in the video file",
        "frames/timestamps.py",
        "return from_timestamp_seconds + timestamps_seconds.astype(np.float64)",
        "return 0.5 * from_timestamp_seconds + timestamps_seconds.astype(np.float64)",
    ),
    Mutant(
        "subtask one frame late",
        "annotate/plan.py",
        'StagedRow(frame=s.frame, role="assistant", style="subtask"',
        'StagedRow(frame=s.frame + 1, role="assistant", style="subtask"',
    ),
    Mutant(
        "answer on the frame after the one asked about",
        "annotate/vqa.py",
        'StagedRow(frame=frame, role=role, style="vqa"',
        'StagedRow(frame=frame + 1, role=role, style="vqa"',
    ),
    Mutant(
        "interjection one frame late",
        "annotate/interjections.py",
        'StagedRow(frame=frame, role="user", style="interjection"',
        'StagedRow(frame=frame + 1, role="user", style="interjection"',
        SECOND_LOOKS,
    ),
    Mutant(
        "interjection shown what comes after it",
        "annotate/interjections.py",
        "np.linspace(middle - reach, middle + reach, count)",
        "np.linspace(middle, middle + 2 * reach, count)",
        SECOND_LOOKS,
    ),
    Mutant(
        "second look at the wrong neighbours",
        "annotate/relabel.py",
        "range(max(place - 1, 0), min(place + 2, len(starts)))",
        "range(max(place, 0), min(place + 3, len(starts)))",
        SECOND_LOOKS,
    ),
    Mutant(
        "times told before single frames shifted by one",
        "vlm/messages.py",
        "pairs = zip(times_seconds, images, strict=True)",
        "pairs = zip([*times_seconds[1:], times_seconds[-1]], images, strict=True)",
        OTHER_INPUTS,
    ),
    Mutant(
        "the video's pace taken for the frames' times",
        "annotate/showing.py",
        "inside = float(np.interp(seconds, self.told_seconds, self.true_seconds))",
        "inside = seconds + 0.2",
        OTHER_INPUTS,
    ),
    Mutant(
        "events merged onto the next frame",
        "merge/replacement.py",
        "events.setdefault(row.frame, [])",
        "events.setdefault(row.frame + 1, [])",
    ),
    Mutant(
        "persistent rows at the time of the frame before",
        "merge/replacement.py",
        "float(timestamps_seconds[row.frame])",
        "float(timestamps_seconds[max(row.frame - 1, 0)])",
    ),
)


def run_tests(source: Path, tests: Sequence[str]) -> int:
    """pytest's exit status with the worker taken from `source`."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    where = subprocess.run(
        [sys.executable, "-c", "import annotationrun_worker; print(annotationrun_worker.__file__)"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(source)), f"the tests would run against {where.stdout}"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode


def apply(mutant: Mutant, source: Path) -> str:
    """Change the copy; returns the text that was there, to be put back."""
    path = source / "annotationrun_worker" / mutant.module
    text = path.read_text(encoding="utf-8")
    found = text.count(mutant.old)
    if found != 1:
        raise SystemExit(
            f"mutant {mutant.name!r}: its place stands {found} times in {mutant.module}, expected once"
        )
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    return text


def main() -> int:
    """0 if every mutant is killed."""
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        shutil.copytree(
            ROOT / "worker" / "annotationrun_worker",
            source / "annotationrun_worker",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for tests in sorted({mutant.tests for mutant in MUTANTS}):
            if run_tests(source, tests) != 0:
                raise SystemExit(f"{' '.join(tests)} fails without any mutant; mend that first")
        for mutant in MUTANTS:
            original = apply(mutant, source)
            start = time.monotonic()
            status = run_tests(source, mutant.tests)
            (source / "annotationrun_worker" / mutant.module).write_text(original, encoding="utf-8")
            verdict = "killed" if status == TESTS_FAILED else f"SURVIVED (pytest exit status {status})"
            if status != TESTS_FAILED:
                survivors.append(mutant.name)
            print(f"{verdict:8}  {mutant.name}  ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{len(MUTANTS) - len(survivors)} of {len(MUTANTS)} mutants killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
