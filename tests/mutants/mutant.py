"""A fault that is put into the code on purpose."""

from collections.abc import Sequence
from dataclasses import dataclass

JOIN = "tests/component/worker/modules/test_rows_match_pixels.py"
REFERENCE = (JOIN, "-k", "every_row_speaks")


@dataclass(frozen=True)
class Mutant:
    """One fault: in `module`, `old` (which stands there exactly once) becomes `new`."""

    name: str
    module: str
    """Its path in the checkout."""
    old: str
    new: str
    tests: Sequence[str] = REFERENCE
    """Arguments of pytest."""
