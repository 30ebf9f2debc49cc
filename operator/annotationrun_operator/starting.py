"""What has to hold before the watches begin: kopf looks once for what there is to watch, and never again."""

import asyncio
import logging
from collections.abc import Sequence

from annotationrun_api.errors import AnnotationRunError
from annotationrun_api.labels import GROUP, PLURAL
from annotationrun_operator.cluster_api import ClusterApi
from annotationrun_operator.errors import ApiRefusedError, ApiUnavailableError

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0


async def wait_until_served(
    api: ClusterApi, scopes: Sequence[str | None], retry_seconds: float = _RETRY_SECONDS
) -> None:
    """Wait until the API server serves runs and lets the operator list them, their Jobs and their pods.

    It may take until somebody installs the CRD, or mends a role: the log says what is missing.
    """
    told = ""
    while True:
        try:
            missing = await _missing(api, scopes)
        except ApiUnavailableError as error:
            missing = f"the API server does not answer: {error}"
        except ApiRefusedError as error:
            missing = f"the role of the operator does not suffice: {error}"
        except AnnotationRunError as error:
            missing = str(error)
        if not missing:
            return
        if missing != told:
            logger.warning("waiting: %s", missing)
            told = missing
        await asyncio.sleep(retry_seconds)


async def _missing(api: ClusterApi, scopes: Sequence[str | None]) -> str:
    if not await api.is_served():
        return f"the custom resource {PLURAL}.{GROUP} is not served; install the CRD"
    for scope in scopes:
        async for _ in api.list_run_versions(scope):
            break
        await api.check_children(scope)
    return ""
