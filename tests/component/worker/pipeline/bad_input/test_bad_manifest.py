"""Bad manifests: refused before anything is asked, with the place, what was got, and what to do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support.annotated_dataset import annotate_by_hand
from tests.support.annotation import REFERENCE, run_command
from tests.support.bad_input import Bench, Case, Outcome, check_failure, outcome

from annotationrun_api.exit_codes import ExitCode


@dataclass(frozen=True)
class BadManifest(Case):
    """A manifest with one bad part."""

    spec: dict[str, Any] = field(default_factory=dict)


CASES = [
    BadManifest(
        "unknown field",
        ExitCode.CONFIGURATION,
        (r"spec\.modules\.vqa\.emissionHertz", "got: an unknown field", "did you mean 'emissionHz'"),
        {"modules": {"vqa": {"emissionHertz": 2}}},
    ),
    BadManifest(
        "wrong type",
        ExitCode.CONFIGURATION,
        (r"spec\.modules\.vqa\.framesPerTick", "got: '3'", "expected: a whole number", "remove the quotes"),
        {"modules": {"vqa": {"framesPerTick": "3"}}},
    ),
    BadManifest(
        "episode out of range",
        ExitCode.CONFIGURATION,
        ("episode 6 was selected", "has the episodes 0-5", r"correct spec\.source\.episodes"),
        {"source": {"episodes": "0,6"}},
    ),
    BadManifest(
        "unknown camera",
        ExitCode.CONFIGURATION,
        (
            r"spec\.frames\.defaultCamera",
            r"'observation\.images\.top'",
            r"cameras are \['observation\.images\.front', 'observation\.images\.wrist'\]",
        ),
        {"frames": {"defaultCamera": "observation.images.top"}},
    ),
    BadManifest(
        "unknown backend",
        ExitCode.CONFIGURATION,
        (r"spec\.frames\.backend", "got: 'gstreamer'", "one of auto, ffmpeg, pyav, torchcodec"),
        {"frames": {"backend": "gstreamer"}},
    ),
    BadManifest(
        "no module enabled",
        ExitCode.CONFIGURATION,
        (r"13:5: spec\.modules\n", "got: no module", "expected: at least one of"),
        {"modules": {"vqa": None}},
    ),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_a_bad_manifest_is_refused_before_anything_is_asked(
    case: BadManifest, bench: Bench, staged_first: Path, tabulate: Callable[[str, str, Outcome], None]
) -> None:
    bench.stage(staged_first)
    before = bench.staged()
    assert before
    bad = bench.run(**case.spec)
    tabulate("manifest", case.name, bad)
    check_failure(case, bad, bench)
    assert bad.asked == 0
    assert bench.staged().items() >= before.items()


def test_interjections_are_not_kept_under_subtasks_that_a_run_would_replace(
    tmp_path: Path, tabulate: Callable[[str, str, Outcome], None]
) -> None:
    by_hand = annotate_by_hand(REFERENCE, tmp_path / "dataset")
    bench = Bench(tmp_path, dataset=by_hand, episodes="0", modules={"plan": {}})
    case = Case(
        "interjections kept under replaced subtasks",
        ExitCode.CONFIGURATION,
        ("episode 0 has interjections", "enable the module interjections", r"spec\.output\.existingRows"),
    )
    bad = bench.run()
    tabulate("manifest", case.name, bad)
    check_failure(case, bad, bench)
    assert bad.asked == 0
    assert not bench.staging.exists()


def test_a_manifest_that_is_not_there_is_named(
    bench: Bench, tabulate: Callable[[str, str, Outcome], None]
) -> None:
    case = Case("no such file", ExitCode.CONFIGURATION, (r"nowhere\.yaml", "next: "))
    bad = outcome(run_command("run", "-f", bench.folder / "nowhere.yaml"))
    tabulate("manifest", case.name, bad)
    check_failure(case, bad, bench)
