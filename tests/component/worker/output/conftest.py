"""The reference dataset as annotated by hand, made once for all tests of merging, which only read it."""

from pathlib import Path

import pytest
from tests.support.annotated_dataset import annotate_by_hand
from tests.support.checkout import REFERENCE
from tests.support.staged_results import Results, staged_results


@pytest.fixture(scope="session")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotate_by_hand(REFERENCE, tmp_path_factory.mktemp("hand") / "annotated")


@pytest.fixture(scope="session")
def results(by_hand: Path) -> Results:
    return staged_results(by_hand)
