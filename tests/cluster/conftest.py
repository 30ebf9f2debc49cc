"""A real cluster: the one that KUBECONFIG names, or one that is booted on this machine for the session."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import boot
from tests.cluster.client import Client
from tests.cluster.images import Images
from tests.cluster.installation import Installation
from tests.cluster.manifests import external, start_server
from tests.cluster.pick import LATENCY_SECONDS, Undisturbed, run_undisturbed
from tests.cluster.workspace import Workspace
from tests.support.annotation import REFERENCE

IMAGE_VARIABLES = ("OPERATOR_IMAGE", "WORKER_IMAGE", "DEMO_VLM_IMAGE")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Client]:
    """kubectl with all rights on a cluster of one node, or on that of KUBECONFIG."""
    kubeconfig = os.environ.get("KUBECONFIG")
    if kubeconfig:
        yield Client(Path(kubeconfig), shutil.which("kubectl") or boot.build_programs() / "kubectl")
        return
    with boot.the_only_cluster():
        client = boot.boot()
        try:
            yield client
        finally:
            boot.shut_down()


@pytest.fixture(scope="session")
def images(cluster: Client) -> Images:
    """Names of the project's images on the cluster; on a foreign one the environment has to tell them."""
    if not os.environ.get("KUBECONFIG"):
        return boot.noted_images()
    missing = [name for name in IMAGE_VARIABLES if not os.environ.get(name)]
    assert not missing, (
        f"with KUBECONFIG set, {', '.join(missing)} must name images that the cluster can pull"
    )
    return Images(*(os.environ[name] for name in IMAGE_VARIABLES))


@pytest.fixture(scope="session")
def vllm_cpu(cluster: Client) -> str:
    """Name of the image of a real vLLM for CPUs; on a foreign cluster the environment tells it."""
    return os.environ["VLLM_CPU_IMAGE"] if os.environ.get("KUBECONFIG") else boot.load_vllm_image()


@pytest.fixture(scope="session")
def installation(cluster: Client, images: Images) -> Iterator[Installation]:
    """The chart, installed for the session."""
    installed = Installation(cluster, images)
    installed.install()
    yield installed
    installed.uninstall()
    Workspace(cluster, "all", images.worker).remove_files()


@pytest.fixture
def workspace(installation: Installation) -> Iterator[Callable[..., Workspace]]:
    """Makes namespaces for a test, by a name; the operator serves them."""
    yield from _workspaces(installation)


@pytest.fixture(scope="session")
def undisturbed(installation: Installation) -> Iterator[Undisturbed]:
    """What the run `pick` comes to if it is left alone."""
    for make in _workspaces(installation):
        yield run_undisturbed(make("undisturbed"), installation.images)


@pytest.fixture
def slow(workspace: Callable[..., Workspace], images: Images) -> tuple[Workspace, dict[str, Any]]:
    """A workspace with the dataset and a server that takes its time; the manifest of the run `pick` there."""
    space = workspace("slow")
    space.put_folder(REFERENCE, "in")
    return space, external("pick", start_server(space, images, LATENCY_SECONDS))


def _workspaces(installation: Installation) -> Iterator[Callable[..., Workspace]]:
    made: list[Workspace] = []

    def make(name: str, claims: Sequence[str] = ("data",)) -> Workspace:
        space = Workspace(installation.client, f"{name}-{next(_numbers)}", installation.images.worker)
        made.append(space)
        space.make(claims)
        return space

    yield make
    for space in made:
        space.remove()


_numbers = itertools.count()
