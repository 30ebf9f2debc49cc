"""`make durations`: where the seconds of each suite went, the last time that all of it ran on this machine.

Prints a table of the suites' files and one of their slowest tests, and writes both to out/durations.txt.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from tests.support.checkout import ROOT
from tests.support.suite_record import RECORDS, Record

FILES, TESTS = 12, 12
"""Of each suite, shown."""
KEPT: Final = ROOT / "out" / "durations.txt"


def lines_of(name: str, record: Record) -> Iterator[str]:
    """The tables of one suite."""
    tests = {test: sum(parts.values()) for test, parts in record.seconds.items()}
    files: dict[str, float] = defaultdict(float)
    first: dict[str, float] = defaultdict(float)
    for test, parts in record.seconds.items():
        files[test.partition("::")[0]] += tests[test]
        first[test.partition("::")[0]] += parts.get("setup", 0.0)
    yield f"{name}: {len(tests)} tests, {sum(tests.values()):.0f} s in their processes"
    for file, seconds in _largest(files, FILES):
        yield f"  {seconds:8.1f} s, {first[file]:6.1f} s of it fixtures  {file}"
    for test, seconds in _largest(tests, TESTS):
        yield f"  {seconds:8.1f} s  {test}"


def _largest(seconds: Mapping[str, float], number: int) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])[:number]


def main() -> int:
    """Print and keep the tables; 1 if no suite has run yet."""
    records = {path.stem: record for path in sorted(RECORDS.glob("*.json")) if (record := Record.read(path))}
    if not records:
        sys.stderr.write(f"no suite has run yet (nothing in {RECORDS}): run `make test` first\n")
        return 1
    text = "\n\n".join("\n".join(lines_of(name, record)) for name, record in records.items())
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\nkept in {KEPT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
