"""The model's revision as results know it: the commit that ``spec.model.revision`` names on the Hub.

A branch moves, and labels of two models must not pass for those of one. It is looked up where servers of ours
fetch the model from the Hub: what others serve, nobody knows here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_model import ModelSpec
from annotationrun_api.step_results import HUB_TOKEN_VARIABLE, MODEL_TOKEN_VARIABLE
from annotationrun_worker.errors import HubAccessError, HubUnavailableError
from annotationrun_worker.run.hub_source import token_in
from annotationrun_worker.staging.digests import is_commit
from annotationrun_worker.staging.models import read_model_commit, stage_model_commit
from annotationrun_worker.staging.store import StagingStore

PATIENCE_SECONDS: Final = 5.0
"""With a Hub that does not answer, where the run can go on without it."""


@dataclass(frozen=True, slots=True)
class ModelRevision:
    """What ``spec.model.revision`` stands for."""

    name: str
    """SHA-1 of the commit, as far as that is known; else the revision as the manifest has it."""
    is_looked_up: bool = False
    """The Hub has just said so."""
    warnings: tuple[str, ...] = ()

    @property
    def commit(self) -> str:
        """SHA-1 of the commit; empty: it is not known."""
        return self.name if is_commit(self.name) else ""


def find_model_revision(
    spec: RunSpec, store: StagingStore, environment: Mapping[str, str] = os.environ, *, is_required: bool
) -> ModelRevision:
    """Ask the Hub, once, which commit the model's revision names now.

    Where it does not tell, what the staging store notes of an earlier time stands in, else the revision as it
    is, with a warning; but where the commit ``is_required``, and the environment does not say that the Hub is
    not to be asked (HF_HUB_OFFLINE), that is an error.

    Raises:
        HubAccessError: there is no such model or revision, or it may not be read.
        HubUnavailableError: the Hub does not answer.
        ConfigurationError: an environment variable holds no token.
        StorageError: see ``read_model_commit``.
    """
    model = spec.model
    if not model.is_fetched or is_commit(model.revision):
        return ModelRevision(model.revision)
    from annotationrun_worker.hub.revisions import is_offline  # slow to import

    try:
        return ModelRevision(_asked(model, environment, is_required=is_required), is_looked_up=True)
    except (HubAccessError, HubUnavailableError) as error:
        if is_required and not is_offline():
            raise
        known = read_model_commit(store, model.id, model.revision)
        return _not_looked_up(model, known, error)


def _asked(model: ModelSpec, environment: Mapping[str, str], *, is_required: bool) -> str:
    from annotationrun_worker.hub.login import login_token
    from annotationrun_worker.hub.revisions import model_commit

    variables = (MODEL_TOKEN_VARIABLE, HUB_TOKEN_VARIABLE)
    token = next(filter(None, (token_in(environment, variable) for variable in variables)), None)
    patience_seconds = None if is_required else PATIENCE_SECONDS
    return model_commit(model.id, model.revision, token or login_token(), patience_seconds=patience_seconds)


def _not_looked_up(model: ModelSpec, known: str | None, error: Exception) -> ModelRevision:
    what = f"{model_text(model)}: the Hub does not say which commit that is now ({error})"
    if known is not None:
        return ModelRevision(known, warnings=(f"{what}; going on with {known}, which it was before",))
    unknown = (
        f"{what}; going on with the revision as it is, so nothing records which commit made the labels; name "
        "one with spec.model.revision or --model-revision"
    )
    return ModelRevision(model.revision, warnings=(unknown,))


def model_text(model: ModelSpec) -> str:
    """The model and its revision, for people."""
    return f"model {model.id!r}, revision {model.revision!r}"


def note_model_revision(model: ModelSpec, found: ModelRevision, store: StagingStore) -> str | None:
    """Note for later runs what the Hub has just said; the commit that was noted before, if it is another.

    Raises:
        StorageError: see ``read_model_commit`` and ``stage_model_commit``.
    """
    if not found.is_looked_up:
        return None
    before = read_model_commit(store, model.id, model.revision)
    if before == found.name:
        return None
    stage_model_commit(store, model.id, model.revision, found.name)
    return before
