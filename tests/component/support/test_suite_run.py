"""The runner of `make test`: a failure, a crash or a skipped test can't end as success."""

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from tests import durations, suites
from tests.suites import LEVELS, SUITES, main, report
from tests.support import suite_run, suite_table
from tests.support.checkout import ROOT
from tests.support.suite_record import Record
from tests.support.suite_run import LEFT_OUT, GoBuild, Outcome, Runner, Suite, missing_disk_bytes
from tests.support.suite_table import Times, table

OK = (sys.executable, "-c", "print('fine')")
BROKEN = (sys.executable, "-c", "raise SystemExit(3)")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    for module in (suite_run, suite_table):
        monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(suite_table, "_FILE", tmp_path / "cache" / "seconds.json")
    for module in (suite_run, durations):
        monkeypatch.setattr(module, "RECORDS", tmp_path / "cache" / "records")
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def run_suite(suite, is_alone=False, for_pytest=()):
    return Runner(is_alone, for_pytest).run(suite)


def suite_of(tmp_path, text, **fields):
    """A suite of one test file with this text."""
    path = tmp_path / "test_it.py"
    path.write_text(text, encoding="utf-8")
    return Suite("s", "test", pytest=("-p", "tests.conftest", str(path)), **fields)


def counts_of(outcome):
    return {name: count for name, count in outcome.counts.items() if count}


def test_a_program_counts_by_how_it_ends():
    outcome = run_suite(Suite("s", "test", programs=(OK, BROKEN)))
    assert outcome.counts == {"passed": 1, "failed": 1}


def test_after_a_build_that_fails_nothing_is_tested():
    outcome = run_suite(Suite("s", "test", builds=(BROKEN,), programs=(OK,)))
    assert outcome.counts == {"failed": 1}


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        pytest.param("def test_a(): pass\n", {"passed": 1}, id="passes"),
        pytest.param("def test_a(): assert 0\n", {"failed": 1}, id="fails"),
        pytest.param("import pytest\ndef test_a(): pytest.skip()\n", {"skipped": 1}, id="is skipped"),
        pytest.param("import nothing_of_that_name\n", {"error": 1}, id="can't be imported"),
        pytest.param("", {"error": 1}, id="has no test"),
        pytest.param("import os\ndef test_a(): os._exit(0)\n", {"error": 1}, id="ends the process"),
    ],
)
def test_pytest_counts_by_what_it_says(tmp_path, text, counts):
    assert counts_of(run_suite(suite_of(tmp_path, text))) == counts


def test_the_output_of_suites_side_by_side_comes_in_one_piece(capfd):
    run_suite(Suite("s", "test", programs=(OK, OK)))
    begins, ends = capfd.readouterr().out.split("=== s: ")
    assert "fine" not in begins
    assert ends.count("fine") == 2


def test_a_suite_is_cold_when_its_build_left_something(cache):
    build = (sys.executable, "-c", f"import os; os.makedirs({str(cache / 'thing-1')!r}, exist_ok=True)")
    suite = Suite("s", "test", builds=(build,), caches=("thing-*",), disk_bytes=1)
    assert run_suite(suite).is_cold
    assert not run_suite(suite).is_cold


def test_disk_is_asked_for_what_is_not_built_yet(cache):
    suite = Suite("s", "test", caches=("thing-*",), disk_bytes=10**18)
    assert missing_disk_bytes([suite]) > 0
    (cache / "thing-1").mkdir()
    assert missing_disk_bytes([suite]) == 0


def test_the_table_shows_the_last_time_of_the_other_kind(cache):
    suite = Suite("s", "test")
    table([(suite, Outcome(seconds=200, is_cold=True, counts=Counter(passed=1)))], Times.read())
    text = table([(suite, Outcome(seconds=30, counts=Counter(passed=1, skipped=2)))], Times.read())
    titles, cells = (line.split() for line in text.replace(" s ", "_s ").strip().splitlines())
    assert cells[titles.index("cold_s")] == "(200)"
    assert cells[titles.index("warm_s")] == "30"
    assert cells[titles.index(LEFT_OUT[0])] == "2"


@pytest.mark.parametrize(
    ("is_longest", "is_alone", "behind"), [(False, False, 10), (True, False, 0), (False, True, 0)]
)
def test_a_suite_that_is_not_waited_for_leaves_the_processors_to_the_longest(
    is_longest, is_alone, behind, tmp_path
):
    said = tmp_path / "said"
    tell = f"import os; open({str(said)!r}, 'a').write(str(os.nice(0)) + ' ')"
    text = f"def test_a():\n    {tell}\n"
    program = (sys.executable, "-c", tell)
    suite = replace(suite_of(tmp_path, text), builds=(program,), programs=(program,), is_longest=is_longest)
    assert counts_of(Runner(is_alone).run(suite)) == {"passed": 3}
    assert said.read_text().split() == [str(os.nice(0) + behind)] * 3


def test_what_two_suites_need_is_built_once(tmp_path):
    built = tmp_path / "built"
    build = (sys.executable, "-c", f"open({str(built)!r}, 'a').write('x')")
    runner = Runner(is_alone=False)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(runner.run, [Suite(name, "test", builds=(build,)) for name in "ab"]))
    assert built.read_text() == "x"
    assert [outcome.counts for outcome in outcomes] == [{"passed": 1}] * 2


BUILD = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
with (folder / "begun").open("a") as begun:
    begun.write("x")
print("compiling", flush=True)
print("built helm", flush=True)
while not (folder / "go on").exists():
    time.sleep(0.01)
sys.exit("etcd" in sys.argv and "no etcd")
"""


def go_build(folder, *programs):
    return GoBuild((sys.executable, "-c", BUILD, str(folder), *programs), programs)


def test_what_go_builds_is_built_once_and_waited_for_by_its_name(tmp_path):
    runner = Runner(is_alone=False, go_build=go_build(tmp_path, "helm", "etcd"))
    assert runner.run(Suite("plain", "test", programs=(OK,))).counts == {"passed": 1}
    assert not (tmp_path / "begun").exists()
    for name in "ab":
        assert runner.run(Suite(name, "test", go_programs=("helm",))).counts == {"passed": 1}
    (tmp_path / "go on").touch()
    outcome = runner.run(Suite("c", "test", go_programs=("helm", "etcd"), programs=(OK,)))
    assert outcome.counts == {"failed": 1}, "the command ended without it"
    assert (tmp_path / "begun").read_text() == "x"


def test_a_program_of_go_builds_that_is_missing_fails_who_needs_it(tmp_path):
    runner = Runner(is_alone=False, go_build=GoBuild((str(tmp_path / "none"), "helm"), ("helm",)))
    for name in "ab":
        assert runner.run(Suite(name, "test", go_programs=("helm",), programs=(OK,))).counts == {"failed": 1}


def test_a_build_that_failed_fails_each_suite_that_needs_it():
    runner = Runner(is_alone=False)
    outcomes = [runner.run(Suite(name, "test", builds=(BROKEN,), programs=(OK,))) for name in "ab"]
    assert [outcome.counts for outcome in outcomes] == [{"failed": 1}] * 2


def test_tests_in_several_processes_are_counted_as_in_one(tmp_path):
    text = "def test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pass\n"
    assert counts_of(run_suite(suite_of(tmp_path, text, processes=2))) == {"passed": 2, "failed": 1}


@pytest.mark.parametrize("processes", [1, 2])
def test_figures_are_printed_below_their_title_whichever_process_they_come_from(tmp_path, capfd, processes):
    tests = [f"def test_{n}(printed): printed('{n} rows', 'counted')" for n in (12, 7)]
    run_suite(suite_of(tmp_path, "\n".join(tests), processes=processes))
    assert "= counted (2) =" in (shown := capfd.readouterr().out)
    assert "\n12 rows\n7 rows\n" in shown


def test_a_part_that_is_asked_for_is_told_as_one_and_not_recorded(tmp_path, cache, capsys):
    suite = suite_of(tmp_path, "def test_spans(): pass\ndef test_other(): pass\n")
    outcome = run_suite(suite, for_pytest=("-k", "spans"))
    assert counts_of(outcome) == {"passed": 1, "deselected": 1}
    assert report([suite], [outcome], is_part=True) == 0
    assert report([suite], [outcome], is_part=False) == 1
    assert not (cache / "records").exists()


def test_the_durations_of_the_last_whole_run_are_told_by_file_and_test(tmp_path, cache, monkeypatch, capsys):
    monkeypatch.setattr(durations, "KEPT", ROOT / "out" / f"{tmp_path.name}.txt")
    assert durations.main() == 1
    assert "make test" in capsys.readouterr().err
    text = "import time\ndef test_slow(): time.sleep(0.3)\ndef test_quick(): pass\n"
    run_suite(suite_of(tmp_path, text))
    try:
        assert durations.main() == 0
        assert durations.KEPT.read_text(encoding="utf-8") in capsys.readouterr().out
        record = Record.read(cache / "records" / "s.json")
        (slow,) = [parts["call"] for test, parts in record.seconds.items() if "test_slow" in test]
        assert 0.3 <= slow < 5
        shown = durations.KEPT.read_text(encoding="utf-8")
        assert shown.startswith("s: 2 tests, ")
        assert shown.index("::test_slow") < shown.index("::test_quick")
    finally:
        durations.KEPT.unlink(missing_ok=True)


MARKED = """
import pytest
@pytest.mark.needs_s3
def test_s3(): pass
@pytest.mark.needs_root
def test_root(): pass
@pytest.mark.parametrize("p", ["a", pytest.param("b", marks=pytest.mark.needs_s3)])
def test_either(p): pass
def test_plain(): pass
"""


@pytest.mark.parametrize(
    ("part", "count"), [("--only=s3,root", 3), ("--without=s3,root", 2), ("--only=root", 1)]
)
def test_what_a_part_leaves_out_is_not_told_as_deselected(tmp_path, part, count):
    suite = suite_of(tmp_path, MARKED)
    assert counts_of(run_suite(replace(suite, pytest=(*suite.pytest, part)))) == {"passed": count}


def test_what_one_suite_of_the_component_tests_leaves_out_is_in_the_other():
    parts = [suite.pytest for suite in SUITES if "tests/component" in suite.pytest]
    assert parts == [
        ("tests/component", "--without=s3,azure,root"),
        ("tests/component", "--only=s3,azure,root"),
    ]


def test_every_folder_of_tests_is_in_a_suite():
    folders = {path.parent.relative_to(ROOT).parts[1] for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(folders) > 10
    assert folders == {
        part.split("/")[1] for suite in SUITES for part in suite.pytest if part.startswith("tests/")
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["unti"],
            "unknown suites ['unti']; there are component, docs, fuzz, types, unit, lint, ",
            id="a typo",
        ),
        pytest.param([], "name a suite, or a --level", id="nothing"),
        pytest.param(["--", "-k", "spans"], "name a suite, or a --level", id="arguments for pytest alone"),
    ],
)
def test_what_names_no_suite_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_runs_its_suites_and_no_others(level, monkeypatch, capsys):
    monkeypatch.setattr(Runner, "run", lambda self, suite: Outcome(counts=Counter(passed=1)))
    monkeypatch.setattr(suites, "missing_disk_bytes", lambda chosen: 0)  # whatever this disk has free
    assert main(["--level", level]) == 0
    shown = capsys.readouterr().out
    names = [suite.name for suite in SUITES if suite.level == level]
    assert len(names) >= 5
    assert [line.split()[0] for line in shown.splitlines() if line.endswith("0.0")] == names
