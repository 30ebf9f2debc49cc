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
        spec = importlib.util.find_spec(package)
        found = None if spec is None else spec.origin
        if found is None or not Path(found).is_relative_to(copy):
            raise pytest.UsageError(f"the tests would find {package} at {found}, not in the copy {copy}")
