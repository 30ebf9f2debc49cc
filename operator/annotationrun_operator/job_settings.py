"""What an installation gives to all Jobs: images, and resources where a manifest says nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field

ResourceMap = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ContainerDefaults:
    """Requests and limits of a container, by resource name; those of a manifest replace them one by one."""

    requests: ResourceMap
    limits: ResourceMap = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Of the installation."""

    worker_image: str
    vllm_image: str
    """Of the sidecar, where a manifest names none. Its entry point is ``vllm serve``."""
    image_pull_policy: str = "IfNotPresent"
    """Of the worker's image."""
    plan: ContainerDefaults = ContainerDefaults({"cpu": "500m", "memory": "1Gi"})
    worker: ContainerDefaults = ContainerDefaults({"cpu": "1", "memory": "2Gi"})
    merge: ContainerDefaults = ContainerDefaults({"cpu": "1", "memory": "2Gi"})
    sidecar: ContainerDefaults = ContainerDefaults({"cpu": "1", "memory": "8Gi"})
