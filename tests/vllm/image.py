"""The image of the real vLLM for the cluster's tests, built from the Dockerfile here and kept by buildah."""

import fcntl
import hashlib
import sys
import time
from pathlib import Path
from typing import Final

from tests.cluster.buildah import buildah, has_image
from tests.cluster.host import CACHE, HostError, say
from tests.cluster.images import BASE, CERTIFICATES, CERTIFICATES_IN_BUILD

FOLDER: Final = Path(__file__).parent
INPUTS: Final = ("Dockerfile", "install.sh", "make_tiny_model.py", "requirements.txt", "serve.sh")
"""What the image is made of, besides the base."""
VISION_MODEL: Final = "/opt/models/vision"
TEXT_MODEL: Final = "/opt/models/text"


def vllm_image_name() -> str:
    """The image's name: its tag is the digest of what it is made of."""
    digests = [f"{name} {hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()}" for name in INPUTS]
    tag = hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]
    return f"localhost/annotationrun-vllm-cpu:{tag}"


def build_vllm_image() -> str:
    """Build the image if it is not there; returns its name.

    Raises:
        HostError: there is no base image (`tests.cluster.images.build_images` makes it), or buildah failed.
    """
    name = vllm_image_name()
    with (CACHE / "vllm-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not has_image(name):
            _build(name)
    return name


def _build(name: str) -> None:
    if not has_image(BASE):
        raise HostError(f"there is no image {BASE}; build the project's images first, they bring it")
    start = time.monotonic()
    say(f"building {name} (minutes)")
    # Without layers: the stage that installs would be kept beside what is copied out of it.
    buildah(
        "build", "--quiet", "--isolation=chroot", "--layers=false", "--pull-never", f"--tag={name}",
        "--build-arg", f"SSL_CERT_FILE={CERTIFICATES_IN_BUILD}",
        "--volume", f"{CERTIFICATES}:{CERTIFICATES_IN_BUILD}:ro",
        str(FOLDER),
    )  # fmt: skip
    say(f"{name} built in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    sys.stdout.write(build_vllm_image() + "\n")
