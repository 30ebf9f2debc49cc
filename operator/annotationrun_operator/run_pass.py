"""A pass over a run whose manifest is right: what its steps need."""

from dataclasses import dataclass

from annotationrun_api.spec import AnnotationRun
from annotationrun_operator.draft import Draft
from annotationrun_operator.inputs import Inputs


@dataclass(frozen=True, slots=True)
class RunPass:
    """The decision in the making, the manifest, and its digests."""

    draft: Draft
    manifest: AnnotationRun
    inputs: Inputs
