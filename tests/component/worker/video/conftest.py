"""Decoders of every backend, each made once a module."""

from collections.abc import Iterator

import pytest

from annotationrun_worker.video.backends import BACKENDS, make_decoder
from annotationrun_worker.video.decoder import Decoder


@pytest.fixture(scope="module", params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    """A test that asks for it runs once with each name of a backend."""
    return str(request.param)


@pytest.fixture(scope="module")
def decoder(backend: str) -> Iterator[Decoder]:
    """The backend's decoder; whoever makes a provider of it leaves it open."""
    made = make_decoder(backend)
    yield made
    made.close()
