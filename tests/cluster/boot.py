"""A cluster of one node on this machine: built, booted, and taken away again.

There is one at a time: its network namespace, its cgroups and its folder have fixed names.
"""

import fcntl
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tests.cluster import control_plane, network, node
from tests.cluster.client import Client
from tests.cluster.control_plane import Ports, make_certificates
from tests.cluster.host import CACHE, CLUSTER_PACKAGES, HostError, check_disk, check_host, install, say
from tests.cluster.image_loading import load_images
from tests.cluster.images import Images, build_images, build_vllm_image, vllm_image_name
from tests.cluster.network import CLUSTER_ADDRESS, INSIDE, NODE_ADDRESS
from tests.cluster.node import PAUSE_IMAGE, NodeFolders
from tests.cluster.processes import Processes, noted_processes

FOLDERS: Final = NodeFolders(cluster=CACHE / "cluster", images=CACHE / "containerd")
KUBECONFIG: Final = FOLDERS.cluster / "certificates" / "admin.kubeconfig"
IMAGES_NOTE: Final = FOLDERS.cluster / "images.json"
BUILD_PROGRAMS: Final = Path(__file__).parent / "programs" / "build.sh"
READY_WITHIN_SECONDS: Final = 300.0


def build_programs() -> Path:
    """The folder with Kubernetes' programs; they are built first if they are missing (minutes)."""
    built = subprocess.run([BUILD_PROGRAMS], stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        raise HostError(f"{BUILD_PROGRAMS.name} failed; its messages are above")
    return Path(built.stdout.strip())


def build() -> tuple[Path, Images]:
    """Install and build all that a cluster needs; what is there is not built again.

    Raises:
        HostError: this machine can't do it; the text says what is missing.
    """
    check_host()
    check_disk(built=(CACHE / "containerd").exists())
    install(CLUSTER_PACKAGES)
    programs = build_programs()
    return programs, build_images(programs)


@contextmanager
def the_only_cluster() -> Iterator[None]:
    """Hold the machine's one place for a cluster; waits for another process that has one."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "cluster.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process has a cluster up: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def boot() -> Client:
    """Boot a cluster that is ready for pods, with the images loaded; what a killed process left is removed.

    Raises:
        HostError: this machine can't do it, or a cluster is up that was told to stay.
        ProcessError: a program ended, or did not get ready; what was started is stopped.
    """
    programs, images = build()
    if is_up() and stays_up().exists():
        raise HostError(
            f"a cluster is up: KUBECONFIG={KUBECONFIG} uses it, `python -m tests.cluster down` ends it"
        )
    shut_down()
    start = time.monotonic()
    FOLDERS.cluster.mkdir(parents=True)
    try:
        client = _start(programs, images)
        _note_images(images)
    except BaseException:
        shut_down()
        raise
    say(f"ready after {time.monotonic() - start:.0f} s, {disk_use()}")
    return client


def loaded(images: Images) -> list[str]:
    """What has to be loaded; first the image that has the layers of another."""
    return [PAUSE_IMAGE, images.demo_vlm, images.worker, images.operator]


def stays_up() -> Path:
    """The mark of a cluster that was told to outlive the command that booted it."""
    return FOLDERS.cluster / "stays-up"


def is_up() -> bool:
    """True if the API server of a cluster runs here."""
    return any(
        entry.is_alive()
        for entry in noted_processes(FOLDERS.cluster).started
        if entry.name == "kube-apiserver"
    )


def _start(programs: Path, images: Images) -> Client:
    processes = Processes(FOLDERS.cluster)
    network.make_network()
    addresses = ["127.0.0.1", CLUSTER_ADDRESS, NODE_ADDRESS]
    certificates = make_certificates(FOLDERS.cluster / "certificates", addresses)
    kubeconfig = certificates.write_kubeconfig("admin", f"https://{CLUSTER_ADDRESS}:6443")
    assert kubeconfig == KUBECONFIG
    local = "https://127.0.0.1:6443"
    client = Client(kubeconfig, programs / "kubectl")
    node.write_node_settings(FOLDERS, certificates, local)
    processes.start("etcd", [*INSIDE, *control_plane.etcd_command(FOLDERS.cluster, Ports())])
    extra = ["--allow-privileged=true", "--enable-admission-plugins=NodeRestriction"]
    command = control_plane.api_server_command(programs / "kube-apiserver", certificates, Ports(), extra)
    processes.start("kube-apiserver", [*INSIDE, *command])
    node.start_containerd(processes, FOLDERS, INSIDE)
    load_images(FOLDERS, loaded(images), kept=[vllm_image_name()])
    control_plane.wait_for_api_server(processes, programs, kubeconfig)
    for name, make in (
        ("controller-manager", control_plane.controller_manager_command),
        ("scheduler", control_plane.scheduler_command),
    ):
        command = make(programs / f"kube-{name}", certificates, certificates.write_kubeconfig(name, local))
        processes.start(f"kube-{name}", [*INSIDE, *command])
    client.kubectl("create", "clusterrolebinding", "proxy", "--clusterrole=system:node-proxier",
                   "--user=system:kube-proxy")  # fmt: skip
    command = node.kubelet_command(
        programs / "kubelet", FOLDERS, certificates.write_kubeconfig("node", local)
    )
    processes.start("kubelet", [*INSIDE, *command])
    processes.start(
        "kube-proxy", [*INSIDE, programs / "kube-proxy", f"--config={FOLDERS.cluster / 'proxy.json'}"]
    )
    processes.wait_until(
        "the node and the default service account", lambda: _is_ready(client), READY_WITHIN_SECONDS
    )
    return client


def _is_ready(client: Client) -> bool:
    ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
    accounts = client.kubectl("get", "serviceaccounts", "--namespace=default", "--output=name")
    return (
        client.kubectl("get", "nodes", "--output", ready) == "True" and "serviceaccount/default" in accounts
    )


def reload_images() -> Images:
    """Build the images of this checkout, and load them into the cluster that is up.

    Raises:
        HostError: none is up, or an image can't be built.
    """
    if not is_up():
        raise HostError("no cluster is up; `python -m tests.cluster up` boots one")
    names = build_images(build_programs())
    load_images(FOLDERS, loaded(names), kept=[vllm_image_name()])
    _note_images(names)
    return names


def load_vllm_image() -> str:
    """Build the image of the real vLLM, and load it into the cluster that is up; its name."""
    name = build_vllm_image()
    load_images(FOLDERS, [*loaded(noted_images()), name])
    return name


def _note_images(images: Images) -> None:
    IMAGES_NOTE.write_text(json.dumps(asdict(images)), encoding="utf-8")


def noted_images() -> Images:
    """The images that were loaded into the cluster that is up; the checkout may have changed since."""
    return Images(**json.loads(IMAGES_NOTE.read_text(encoding="utf-8")))


def shut_down() -> None:
    """Stop every process of the cluster by its pid and remove its state; images stay."""
    processes = noted_processes(FOLDERS.cluster)
    processes.stop("kubelet")
    processes.forget_ended()
    if (FOLDERS.cluster / "containerd.toml").exists():
        if not node.containerd_answers(FOLDERS):  # it was killed: its containers run on without it
            processes.stop("containerd")
            node.start_containerd(processes, FOLDERS, ())
        node.remove_containers(FOLDERS)
    processes.stop_all()
    network.remove_network()
    node.unmount_and_remove(FOLDERS.cluster)
    node.remove_cgroups()


def disk_use() -> str:
    """How much disk the cluster's parts take, for the log."""
    parts = [CACHE / "images", CACHE / "containerd", FOLDERS.cluster, *CACHE.glob("kubernetes-*")]
    out = subprocess.run(["du", "-shc", *parts], capture_output=True, text=True, check=False).stdout
    return ", ".join(f"{line.split()[0]} {Path(line.split()[1]).name}" for line in out.splitlines())


def exports() -> str:
    """Lines for a shell, so that the tests use the cluster that is up."""
    programs, images = build_programs(), noted_images()
    return "\n".join(
        [
            f"export KUBECONFIG={KUBECONFIG}",
            f"export PATH={programs}:$PATH",
            f"export OPERATOR_IMAGE={images.operator}",
            f"export WORKER_IMAGE={images.worker}",
            f"export DEMO_VLM_IMAGE={images.demo_vlm}",
        ]
    )
