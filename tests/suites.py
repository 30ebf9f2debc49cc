"""`make test` and `make test-cluster`: suites in two slots side by side, then a table.

A skipped, deselected or expectedly failing test counts as a failure: nothing is left out in silence, unless
arguments for pytest ask for a part.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.support.suite_run import GIGABYTE, LEFT_OUT, GoBuild, Outcome, Runner, Suite, missing_disk_bytes
from tests.support.suite_table import Times, table

BIN: Final = Path(sys.executable).parent
GO_BUILDS: Final = "tests/support/go_builds.sh"
PROMTOOL: Final = ("tests/chart/promtool.sh",)

SUITES: Final = (
    # Of each level the longest first, so that both slots are busy to the end.
    Suite(
        "component",
        "test",
        pytest=("tests/component", "--without=s3,azure,root"),
        processes=2,
        is_longest=True,
    ),
    Suite("docs", "test", pytest=("tests/docs",)),
    Suite("fuzz", "test", pytest=("tests/fuzz",)),
    Suite("types", "test", programs=((str(BIN / "mypy"),),)),
    Suite("unit", "test", pytest=("tests/unit", "tests/architecture"), processes=2),
    Suite(
        "lint",
        "test",
        programs=(
            (str(BIN / "ruff"), "check", "."),
            (str(BIN / "ruff"), "format", "--check", "."),
            (str(BIN / "lint-imports"),),
            (sys.executable, "tests/mutants/mutants.py", "--places"),
        ),
    ),
    Suite(
        "cluster",
        "test-cluster",
        go_programs=("kubernetes", "helm"),
        builds=((sys.executable, "-m", "tests.cluster", "build"),),
        pytest=("tests/cluster",),
        caches=("kubernetes-*", "helm-*", "images", "containerd"),
        disk_bytes=12 * GIGABYTE,
        is_longest=True,
    ),
    # Beside it what needs nothing that Go builds, until that is done.
    Suite(
        "interop",
        "test-cluster",
        builds=(("tests/interop/environment.sh",),),
        pytest=("tests/interop",),
        caches=("interop-*", "lerobot-*"),
        disk_bytes=4 * GIGABYTE,
    ),
    Suite("scale", "test-cluster", pytest=("tests/scale",)),
    Suite(
        "operator",
        "test-cluster",
        go_programs=("kubernetes", "helm", "kueue"),
        pytest=("tests/operator",),
        caches=("kubernetes-*", "helm-*", "kueue-*"),
        disk_bytes=3 * GIGABYTE,
    ),
    Suite(
        "faults",
        "test-cluster",
        go_programs=("versitygw",),
        pytest=("tests/faults",),
        processes=2,
        caches=("versitygw-*",),
    ),
    Suite("mutants", "test-cluster", programs=((sys.executable, "tests/mutants/mutants.py"),)),
    Suite(
        "vllm",
        "test-cluster",
        builds=(("tests/vllm/environment.sh",),),
        pytest=("tests/vllm",),
        caches=("vllm-[0-9a-f]*",),
        disk_bytes=3 * GIGABYTE,
    ),
    Suite(
        "storage",
        "test-cluster",
        go_programs=("versitygw",),
        builds=(("tests/support/azurite/environment.sh",),),
        pytest=("tests/component", "--only=s3,azure,root"),
        caches=("versitygw-*", "azurite-*"),
        disk_bytes=GIGABYTE,
    ),
    Suite(
        "frames-exact",
        "test-cluster",
        programs=((sys.executable, "-m", "tests.component.worker.video.frames_exact"),),
    ),
    Suite(
        "chart",
        "test-cluster",
        go_programs=("helm",),
        builds=(PROMTOOL,),
        pytest=("tests/chart",),
        caches=("helm-*", "promtool-*"),
    ),
    Suite(
        "gitops",
        "test-cluster",
        go_programs=("gitops",),
        pytest=("tests/gitops",),
        caches=("gitops-*",),
        disk_bytes=GIGABYTE,
    ),
)
NAMES: Final = tuple(suite.name for suite in SUITES)
LEVELS: Final = tuple(dict.fromkeys(suite.level for suite in SUITES))
SLOTS: Final = 2
"""Suites that run side by side: where one waits the other computes."""


def main(arguments: Sequence[str]) -> int:
    """Run the suites that are named, or all of a level; 0 if all passed and nothing was left out."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(NAMES))
    parser.add_argument("--level", choices=LEVELS, help="all suites of this make target")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, for_pytest = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    chosen = [suite for suite in SUITES if suite.name in options.suites or suite.level == options.level]
    if unknown := [name for name in options.suites if name not in NAMES]:
        parser.error(f"unknown suites {unknown}; there are {', '.join(NAMES)}")
    if not chosen:
        parser.error("name a suite, or a --level")
    if missing := missing_disk_bytes(chosen):
        sys.stderr.write(
            f"the disk lacks {missing / GIGABYTE:.1f} GB for what these suites build; "
            "remove something, or set XDG_CACHE_HOME to another disk\n"
        )
        return 1
    return report(chosen, run_all(chosen, for_pytest), is_part=bool(for_pytest))


def run_all(suites: Sequence[Suite], for_pytest: Sequence[str] = ()) -> list[Outcome]:
    """What came of each; as many run at a time as there are slots, in the order given."""
    os.environ["PYTHONUNBUFFERED"] = "1"
    # In the order of the suites: what the longest needs is built first, and the rest beside its tests.
    go_programs = dict.fromkeys(program for suite in suites for program in suite.go_programs)
    runner = Runner(len(suites) == 1, for_pytest, GoBuild((GO_BUILDS, *go_programs), tuple(go_programs)))
    with ThreadPoolExecutor(SLOTS) as pool:
        return list(pool.map(runner.run, suites))


def report(suites: Sequence[Suite], outcomes: Sequence[Outcome], is_part: bool) -> int:
    """Print the table and sums; 0 if all passed and nothing was left out, but where a part was asked for."""
    print(table(list(zip(suites, outcomes, strict=True)), Times.read()), flush=True)
    total = Outcome.sum(outcomes)
    failed, left_out = total.count("failed", "error"), total.count(*LEFT_OUT)
    print(", ".join(f"{total.count(name)} {name}" for name in LEFT_OUT))
    print(f"{total.count('passed')} passed, {failed} failed", flush=True)
    return 1 if failed or (left_out and not is_part) or not total.count("passed") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
