"""`make test`: every suite, those of a lane in turn and the lanes side by side, then a table.

A skipped, deselected or expectedly failing test counts as a failure: nothing is left out in silence.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.support.suite_run import GIGABYTE, LEFT_OUT, Outcome, Suite, missing_disk_bytes, run_suite
from tests.support.suite_table import Times, table

BIN: Final = Path(sys.executable).parent
VERSITYGW: Final = ("tests/support/versitygw.sh",)
HELM: Final = ("tests/support/helm.sh",)
KUEUE: Final = ("tests/support/kueue.sh",)
PROMTOOL: Final = ("tests/chart/promtool.sh",)
GITOPS: Final = ("tests/gitops/program.sh",)

SUITES: Final = (
    # What waits most runs beside what computes most; the builds of a first run come first.
    Suite(
        "cluster",
        builds=((sys.executable, "-m", "tests.cluster", "build"), HELM),
        pytest=("tests/cluster",),
        lane="cluster",
        caches=("kubernetes-*", "helm-*", "images", "containerd"),
        disk_bytes=22 * GIGABYTE,
    ),
    Suite(
        "operator",
        builds=(("tests/cluster/programs/build.sh",), HELM, KUEUE),
        pytest=("tests/operator",),
        lane="cluster",
        caches=("kubernetes-*", "helm-*", "kueue-*"),
        disk_bytes=5 * GIGABYTE,
    ),
    Suite(
        "faults",
        builds=(VERSITYGW,),
        pytest=("tests/faults",),
        lane="cluster",
        caches=("versitygw-*",),
    ),
    Suite(
        "lint",
        programs=(
            (str(BIN / "ruff"), "check", "."),
            (str(BIN / "ruff"), "format", "--check", "."),
            (str(BIN / "lint-imports"),),
        ),
    ),
    Suite("types", programs=((str(BIN / "mypy"),),)),
    Suite("unit", pytest=("tests/unit", "tests/architecture")),
    Suite("component", builds=(VERSITYGW,), pytest=("tests/component",), caches=("versitygw-*",)),
    Suite("scale", pytest=("tests/scale",)),
    Suite("frames-exact", programs=((sys.executable, "-m", "tests.component.worker.frames.frames_exact"),)),
    Suite("mutants", programs=((sys.executable, "tests/mutants/mutants.py"),)),
    Suite(
        "interop",
        builds=(("tests/interop/environment.sh",),),
        pytest=("tests/interop",),
        caches=("interop-*", "lerobot-*"),
        disk_bytes=9 * GIGABYTE,
    ),
    Suite(
        "vllm",
        builds=(("tests/vllm/environment.sh",),),
        pytest=("tests/vllm",),
        caches=("vllm-[0-9a-f]*",),
        disk_bytes=5 * GIGABYTE,
    ),
    Suite("chart", builds=(HELM, PROMTOOL), pytest=("tests/chart",), caches=("helm-*", "promtool-*")),
    Suite(
        "gitops",
        builds=(GITOPS,),
        pytest=("tests/gitops",),
        caches=("gitops-*",),
        disk_bytes=2 * GIGABYTE,
    ),
    Suite("docs", pytest=("tests/docs",)),
)


def main(names: Sequence[str]) -> int:
    """Run the suites `names`, or all; 0 if all passed and nothing was left out."""
    chosen = [suite for suite in SUITES if (suite.name in names or not names)]
    if names and len(chosen) != len(set(names)):
        sys.stderr.write(f"unknown suite in {list(names)}; there are {[suite.name for suite in SUITES]}\n")
        return 2
    if missing := missing_disk_bytes(chosen):
        sys.stderr.write(
            f"the disk lacks {missing / GIGABYTE:.1f} GB for what these suites build; "
            "remove something, or set XDG_CACHE_HOME to another disk\n"
        )
        return 1
    os.environ["PYTHONUNBUFFERED"] = "1"
    lanes = {suite.lane: [one for one in chosen if one.lane == suite.lane] for suite in chosen}
    is_alone = len(lanes) == 1
    with ThreadPoolExecutor(len(lanes)) as pool:
        runs = [
            pool.submit(lambda lane: [(suite, run_suite(suite, is_alone)) for suite in lane], lane)
            for lane in lanes.values()
        ]
        outcomes = [pair for run in runs for pair in run.result()]
    print(table(outcomes, Times.read()), flush=True)
    total = Outcome.sum(outcome for _, outcome in outcomes)
    failed, left_out = total.count("failed", "error"), total.count(*LEFT_OUT)
    print(", ".join(f"{total.count(name)} {name}" for name in LEFT_OUT))
    print(f"{total.count('passed')} passed, {failed} failed", flush=True)
    return 1 if failed or left_out or not total.count("passed") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
