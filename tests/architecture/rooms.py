"""The rooms of the code in numbers: modules, lines, and who is imported by one other module alone.

    python -m tests.architecture.rooms              # this checkout
    python -m tests.architecture.rooms CHECKOUT     # another, as it was before a change

Packages' own files (``__init__.py``) are not counted as modules.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import grimp
from tests.support.checkout import ROOT

PACKAGES = {
    "annotationrun_api": "crds",
    "annotationrun_worker": "worker",
    "annotationrun_operator": "operator",
}
"""Each with its source root."""


@dataclass
class Room:
    """The modules of a folder, with the lines of each."""

    lines: dict[str, int] = field(default_factory=dict)
    with_one_importer: int = 0

    def row(self, name: str) -> str:
        """A line of the table."""
        count, total = len(self.lines), sum(self.lines.values())
        largest = max(self.lines, key=self.lines.__getitem__)
        return (
            f"{name:32s} {count:7d} {total:7d} {total / count:5.0f} {self.lines[largest]:8d} "
            f"{self.with_one_importer:12d}  {largest.rpartition('.')[2]}"
        )


def rooms(checkout: Path) -> dict[str, Room]:
    """By package and folder, what is in it."""
    sys.path[:0] = [str(checkout / root) for root in PACKAGES.values()]
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found: dict[str, Room] = defaultdict(Room)
    for module in sorted(graph.modules):
        package = module.partition(".")[0]
        path = checkout / PACKAGES[package] / f"{module.replace('.', '/')}.py"
        if not path.is_file():
            continue
        importers = {one for one in graph.find_modules_that_directly_import(module) if one != module}
        for name in (module.rpartition(".")[0], f"{package} in all"):
            found[name].lines[module] = len(path.read_text(encoding="utf-8").splitlines())
            found[name].with_one_importer += len(importers) == 1
    return dict(found)


def main() -> None:
    """Print the table."""
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    print(f"{'room':32s} modules   lines  mean  largest  one importer  the largest")
    for name, room in sorted(rooms(checkout.absolute()).items()):
        print(room.row(name))


if __name__ == "__main__":
    main()
