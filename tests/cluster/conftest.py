"""A real cluster: the one that KUBECONFIG names, or one that is booted on this machine for the session."""

import itertools
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import boot
from tests.cluster.client import Client, ConnectedClient, connected
from tests.cluster.images import Images
from tests.cluster.installation import Installation
from tests.cluster.manifests import external, start_server
from tests.cluster.node_files import NodeFiles
from tests.cluster.pick import LATENCY_SECONDS, Undisturbed, run_undisturbed
from tests.cluster.waiting import wait_until
from tests.cluster.workspace import SESSION_LABEL, Workspace
from tests.support.annotation import REFERENCE

MakeWorkspace = Callable[..., Workspace]
TEST_SECONDS = 1800
"""More than the waits of a test may take, and the boot of the cluster, which is part of the first one."""
IMAGE_VARIABLES = ("OPERATOR_IMAGE", "WORKER_IMAGE", "DEMO_VLM_IMAGE")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Give the tests of this folder that have no time-out of their own a longer one than others have."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def cluster() -> Iterator[ConnectedClient]:
    """All rights on a cluster of one node, or on that of KUBECONFIG."""
    kubeconfig = os.environ.get("KUBECONFIG")
    if kubeconfig:
        program = shutil.which("kubectl") or boot.build_programs() / "kubectl"
        with connected(Client(Path(kubeconfig), program)) as client:
            yield client
        return
    with boot.the_only_cluster():
        booted = boot.boot()
        try:
            with connected(booted) as client:
                yield client
        finally:
            boot.shut_down()


@pytest.fixture(scope="session")
def images(cluster: ConnectedClient) -> Images:
    """Names of the project's images on the cluster; on a foreign one the environment has to tell them."""
    if not os.environ.get("KUBECONFIG"):
        return boot.noted_images()
    missing = [name for name in IMAGE_VARIABLES if not os.environ.get(name)]
    assert not missing, (
        f"with KUBECONFIG set, {', '.join(missing)} must name images that the cluster can pull"
    )
    return Images(*(os.environ[name] for name in IMAGE_VARIABLES))


@pytest.fixture(scope="session")
def vllm_cpu(cluster: ConnectedClient) -> str:
    """Name of the image of a real vLLM for CPUs; on a foreign cluster the environment tells it."""
    return os.environ["VLLM_CPU_IMAGE"] if os.environ.get("KUBECONFIG") else boot.load_vllm_image()


@pytest.fixture(scope="session")
def node_files(cluster: ConnectedClient, images: Images) -> Iterator[NodeFiles]:
    """The volumes' files of this session, which are removed when its namespaces are gone."""
    files = NodeFiles(cluster, secrets.token_hex(2))
    with files.running(images.worker):
        yield files
        path = f"/api/v1/namespaces?labelSelector={SESSION_LABEL}={files.session}"
        wait_until(lambda: not cluster.api.items(path), 300, lambda: f"left: {cluster.api.items(path)}")


@pytest.fixture(scope="session")
def installation(cluster: ConnectedClient, images: Images) -> Iterator[Installation]:
    """The chart, installed for the session."""
    installed = Installation(cluster, images)
    installed.install()
    yield installed
    installed.uninstall()


@pytest.fixture
def namespaces(cluster: ConnectedClient, images: Images, node_files: NodeFiles) -> Iterator[MakeWorkspace]:
    """Makes namespaces for a test, by a name, whether an operator serves them or not."""
    with made_workspaces(cluster, images, node_files) as make:
        yield make


@pytest.fixture
def workspace(installation: Installation, namespaces: MakeWorkspace) -> MakeWorkspace:
    """Makes namespaces for a test, by a name; the operator serves them."""
    return namespaces


@pytest.fixture(scope="session")
def undisturbed(installation: Installation, node_files: NodeFiles) -> Undisturbed:
    """What the run `pick` comes to if it is left alone."""
    with made_workspaces(installation.client, installation.images, node_files) as make:
        return run_undisturbed(make("undisturbed"), installation.images)


@pytest.fixture
def slow(workspace: MakeWorkspace, images: Images) -> tuple[Workspace, dict[str, Any]]:
    """A workspace with the dataset and a server that takes its time; the manifest of the run `pick` there."""
    space = workspace("slow")
    space.put_folder(REFERENCE, "in")
    return space, external("pick", start_server(space, images, LATENCY_SECONDS))


@contextmanager
def made_workspaces(client: ConnectedClient, images: Images, files: NodeFiles) -> Iterator[MakeWorkspace]:
    """Makes namespaces, and has them removed in the end; their names are of this session alone."""
    made: list[Workspace] = []

    def make(name: str, claims: Sequence[str] = ("data",)) -> Workspace:
        space = Workspace(client, f"{name}-{files.session}-{next(_numbers)}", files, images.worker)
        made.append(space)
        space.make(claims)
        return space

    try:
        yield make
    finally:
        for space in made:
            space.remove()


_numbers = itertools.count()
