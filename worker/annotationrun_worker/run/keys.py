"""The keys of results: what stands in them decides when work is done again, and when it is not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.results import RESULT_FORMAT


@dataclass(frozen=True, slots=True)
class ResultIdentity:
    """Everything that a result depends on."""

    module: str
    fingerprint: Digest
    """Of what the module sees of the episode."""
    settings: Mapping[str, Any]
    """The module's settings as in the manifest, and what was resolved for it (such as a scale)."""
    model: Mapping[str, Any]
    """Id, revision, sampling."""
    prompts: Mapping[str, Digest]
    seed: int
    output_language: str
    builds_on: Sequence[Digest] = ()
    """Content digests of the results that it builds on."""

    def key(self) -> Digest:
        """The result's key: SHA-256 over all of it, and the format's version."""
        return digest_json(
            {
                "format": RESULT_FORMAT,
                "module": self.module,
                "fingerprint": self.fingerprint,
                "settings": self.settings,
                "model": self.model,
                "prompts": self.prompts,
                "seed": self.seed,
                "output_language": self.output_language,
                "builds_on": list(self.builds_on),
            }
        )
