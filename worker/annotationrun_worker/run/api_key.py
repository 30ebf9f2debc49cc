"""The API key of the model servers: from the environment, and nowhere else."""

from collections.abc import Mapping

from annotationrun_api.spec import RunSpec
from annotationrun_api.step_results import API_KEY_VARIABLE
from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.vlm.server_settings import NO_API_KEY


def read_api_key(spec: RunSpec, environment: Mapping[str, str]) -> str:
    """The key in ``ANNOTATIONRUN_API_KEY``, without the space around it that files end with.

    Returns:
        ``NO_API_KEY`` where none is set.

    Raises:
        ConfigurationError: the manifest names a key and none is set, or it can't stand in an HTTP header.
    """
    key = environment.get(API_KEY_VARIABLE, "").strip()
    if not key and spec.model.serving.api_key_secret_ref is not None:
        raise ConfigurationError(
            "spec.model.serving.apiKeySecretRef names a key, and a Secret can't be read without a cluster; "
            f"put the key into the environment variable {API_KEY_VARIABLE}, or leave the field out"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(
            f"the environment variable {API_KEY_VARIABLE} holds characters that no API key has (its value is "
            "not shown); expected printable ASCII"
        )
    return key or NO_API_KEY
