"""The name of a run in a cluster."""

from typing import NamedTuple


class RunKey(NamedTuple):
    """What a run is known by: one that is made again under the same name takes the place of the former."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
