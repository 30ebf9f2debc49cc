"""A plugin for pytest: the tests of a mutant run against the copy that holds it, or not at all."""

import importlib.util
import os
from pathlib import Path
from typing import Final

import pytest

COPY_VARIABLE: Final = "ANNOTATIONRUN_MUTANTS_COPY"
"""Names the environment variable that names the copy."""
PACKAGES: Final = {
    "annotationrun_api": "crds",
    "annotationrun_operator": "operator",
    "annotationrun_worker": "worker",
}
"""The folder of each package, in the checkout as in a copy."""


def pytest_configure() -> None:
    """Refuse to begin where a package would be another than the copy's."""
    copy = Path(os.environ[COPY_VARIABLE])
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or not Path(found.origin or "").is_relative_to(copy):
            raise pytest.UsageError(f"the tests would run against {found}, which is not of the copy {copy}")
