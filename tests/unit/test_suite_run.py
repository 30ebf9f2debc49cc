"""The runner of `make test`: a failure, a crash or a skipped test can't end as success."""

import sys
from collections import Counter

import pytest
from tests.support import suite_run, suite_table
from tests.support.suite_run import LEFT_OUT, Outcome, Suite, missing_disk_bytes, run_suite
from tests.support.suite_table import Times, table

OK = (sys.executable, "-c", "print('fine')")
BROKEN = (sys.executable, "-c", "raise SystemExit(3)")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    for module in (suite_run, suite_table):
        monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(suite_table, "_FILE", tmp_path / "cache" / "seconds.json")
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_a_program_counts_by_how_it_ends():
    outcome = run_suite(Suite("s", programs=(OK, BROKEN)), is_alone=False)
    assert outcome.counts == {"passed": 1, "failed": 1}


def test_after_a_build_that_fails_nothing_is_tested():
    outcome = run_suite(Suite("s", builds=(BROKEN,), programs=(OK,)), is_alone=False)
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
    path = tmp_path / "test_it.py"
    path.write_text(text, encoding="utf-8")
    outcome = run_suite(Suite("s", pytest=("-p", "tests.conftest", str(path))), is_alone=False)
    assert {name: count for name, count in outcome.counts.items() if count} == counts


def test_the_output_of_suites_side_by_side_comes_in_one_piece(capfd):
    run_suite(Suite("s", programs=(OK, OK)), is_alone=False)
    begins, ends = capfd.readouterr().out.split("=== s: ")
    assert "fine" not in begins
    assert ends.count("fine") == 2


def test_a_suite_is_cold_when_its_build_left_something(cache):
    build = (sys.executable, "-c", f"import os; os.makedirs({str(cache / 'thing-1')!r}, exist_ok=True)")
    suite = Suite("s", builds=(build,), caches=("thing-*",), disk_bytes=1)
    assert run_suite(suite, is_alone=False).is_cold
    assert not run_suite(suite, is_alone=False).is_cold


def test_disk_is_asked_for_what_is_not_built_yet(cache):
    suite = Suite("s", caches=("thing-*",), disk_bytes=10**18)
    assert missing_disk_bytes([suite]) > 0
    (cache / "thing-1").mkdir()
    assert missing_disk_bytes([suite]) == 0


def test_the_table_shows_the_last_time_of_the_other_kind(cache):
    suite = Suite("s")
    table([(suite, Outcome(seconds=200, is_cold=True, counts=Counter(passed=1)))], Times.read())
    text = table([(suite, Outcome(seconds=30, counts=Counter(passed=1, skipped=2)))], Times.read())
    titles, cells = (line.split() for line in text.replace(" s ", "_s ").strip().splitlines())
    assert cells[titles.index("cold_s")] == "(200)"
    assert cells[titles.index("warm_s")] == "30"
    assert cells[titles.index(LEFT_OUT[0])] == "2"
