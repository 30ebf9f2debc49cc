"""The project's images, built from its Dockerfile without a container engine, and the base that it names.

buildah keeps its layers under the cache folder, so that a change of code costs seconds. The base image is
made from Debian's packages under the name that the Dockerfile has, so that the same file builds with Docker.
"""

import fcntl
import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from tests.cluster.buildah import BUILDAH, buildah, has_image, run_tool
from tests.cluster.host import CACHE, HostError, say
from tests.cluster.node import PAUSE_IMAGE
from tests.support.checkout import ROOT

INPUTS: Final = (
    "Dockerfile",
    ".dockerignore",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "crds/annotationrun_api",
    "operator/requirements.txt",
    "operator/annotationrun_operator",
    "worker/NOTICE",
    "worker/requirements.txt",
    "worker/annotationrun_worker",
)
"""What the project's images are made of."""
TARGETS: Final = ("operator", "worker", "demo-vlm")
VLLM: Final = ROOT / "tests" / "vllm"
VLLM_INPUTS: Final = ("Dockerfile", "install.sh", "make_tiny_model.py", "requirements.txt", "serve.sh")
VISION_MODEL: Final = "/opt/models/vision"
"""Where the image of the real vLLM has the model that takes pictures."""
TEXT_MODEL: Final = "/opt/models/text"
BASE: Final = "docker.io/library/debian:trixie-slim"
RELEASE: Final = "trixie"
BASE_SETTINGS: Final = (
    "--mode=root",
    "--variant=minbase",
    # As the image of that name on the Docker Hub has it, now and later: no documentation, no translations, no
    # waiting for the disk after each file.
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=force-unsafe-io",
    "--customize-hook=echo 'Acquire::Languages \"none\";' > $1/etc/apt/apt.conf.d/docker-no-languages",
)
KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
DOWNLOADS: Final = CACHE / "image-downloads"
"""What the Dockerfiles' caches hold, until the last image is built."""
CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
CERTIFICATES_IN_BUILD: Final = "/run/ca.crt"


@dataclass(frozen=True)
class Images:
    """Names of the images, as a pod spec has them."""

    operator: str
    worker: str
    demo_vlm: str


def image_names() -> Images:
    """The names that the images of this checkout have: their tag is the digest of what they are made of."""
    tag = _digest_of_files(path for name in INPUTS for path in _files(ROOT / name))
    return Images(*(f"localhost/annotationrun-{target}:{tag}" for target in TARGETS))


def _digest_of_files(paths: Iterable[Path]) -> str:
    return _digest(
        f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sorted(paths)
    )


def _digest(inputs: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def build_images(programs: Path) -> Images:
    """Build what is missing of the pause image and the project's three."""
    names = image_names()
    with _lock():
        if not has_image(PAUSE_IMAGE):
            _from_scratch(PAUSE_IMAGE, ("--entrypoint", '["/pause"]'), (programs / "pause", "/pause"))
        missing = [
            (target, name)
            for target, name in zip(TARGETS, astuple(names), strict=True)
            if not has_image(name)
        ]
        if missing:
            _provide_base()
        for target, name in missing:
            _build(name, "--layers", f"--target={target}", str(ROOT))
        _remove_older(astuple(names))
    return names


def vllm_image_name() -> str:
    """The name that the image of the real vLLM has; its tag is the digest of what it is made of."""
    return f"localhost/annotationrun-vllm-cpu:{_digest_of_files(VLLM / name for name in VLLM_INPUTS)}"


def build_vllm_image() -> str:
    """Build the image of a real vLLM that computes on CPUs, if it is missing; it is built last."""
    name = vllm_image_name()
    with _lock():
        if not has_image(name):
            _provide_base()
            # Without layers: the stage that installs would be kept beside what is copied out of it.
            _build(name, "--layers=false", str(VLLM))
        _remove_older([name])
        shutil.rmtree(DOWNLOADS, ignore_errors=True)
    return name


def _remove_older(names: Iterable[str]) -> None:
    """Take away the images of the same repositories with other tags; layers that others have too stay."""
    there = buildah("images", "--format={{.Name}}:{{.Tag}}").split()
    for name in names:
        repository = name.rpartition(":")[0]
        if older := [one for one in there if one.rpartition(":")[0] == repository and one != name]:
            buildah("rmi", *older)


def _build(name: str, *arguments: str) -> None:
    start = time.monotonic()
    say(f"building {name}")
    DOWNLOADS.mkdir(exist_ok=True)
    # chroot: no container runtime is asked of the machine. HTTPS goes by the machine's own authorities.
    # TMPDIR is where buildah has the caches that a Dockerfile mounts.
    run_tool(
        "env", f"TMPDIR={DOWNLOADS}", *BUILDAH,
        "build", "--quiet", "--isolation=chroot", "--pull-never", f"--tag={name}",
        "--build-arg", f"SSL_CERT_FILE={CERTIFICATES_IN_BUILD}",
        "--volume", f"{CERTIFICATES}:{CERTIFICATES_IN_BUILD}:ro",
        *arguments,
    )  # fmt: skip
    say(f"{name} built in {time.monotonic() - start:.0f} s")


def _provide_base() -> None:
    """See to it that the base has the name that the Dockerfiles have for it."""
    name = f"localhost/annotationrun-base:{_digest((RELEASE, *BASE_SETTINGS))}"
    if not has_image(name):
        _build_base(name)
    buildah("tag", name, BASE)


def _build_base(name: str) -> None:
    start = time.monotonic()
    say(f"making {BASE} of Debian's packages")
    archive, settings = CACHE / "base.tar", CACHE / "base-apt.conf"
    # mmdebstrap reads no apt settings of the machine: proxies and the like are handed over.
    dump = run_tool("apt-config", "dump", "--format", '%F "%v";%n', "Acquire").splitlines()
    wanted = [line for line in dump if not any(word in line for word in ("IndexTargets", "cdrom", ' "";'))]
    settings.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    try:
        run_tool(
            "mmdebstrap", "--quiet", *BASE_SETTINGS, f"--aptopt={settings}",
            "--customize-hook=rm $1/etc/apt/apt.conf.d/99mmdebstrap", "--format=tar", RELEASE, str(archive),
            f"deb [signed-by={KEYRING}] {_debian_mirror()} {RELEASE} main",
        )  # fmt: skip
        _from_scratch(name, ("--cmd", "bash"), (archive, "/"))
    finally:
        archive.unlink(missing_ok=True)
        settings.unlink()
    say(f"{BASE} made in {time.monotonic() - start:.0f} s")


def _debian_mirror() -> str:
    """The mirror that the apt sources of this machine name."""
    command = [
        "apt-get",
        "indextargets",
        "--format",
        "$(LABEL) $(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ]
    for refresh in (False, True):  # the label is read from downloaded lists, which may not be there
        if refresh:
            run_tool("apt-get", "-q", "update")
        for line in run_tool(*command).splitlines():
            label, component, address = line.split(maxsplit=2)
            if (label, component) == ("Debian", "main"):
                return address
    raise HostError("the apt sources of this machine name no Debian mirror; add one")


def _from_scratch(name: str, settings: tuple[str, str], added: tuple[Path, str]) -> None:
    container = buildah("from", "scratch").strip()
    buildah("add", "--quiet", container, *map(str, added))
    buildah("config", *settings, container)
    buildah("commit", "--quiet", "--rm", container, name)


@contextmanager
def _lock() -> Iterator[None]:
    """Keeps two builds apart."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
