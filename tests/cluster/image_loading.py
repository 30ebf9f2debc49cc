"""Images from buildah's storage to containerd: only the layers that containerd does not have.

A whole image is up to 3 GB, and changed code one layer of a few MB. An OCI archive is made here that names
all layers of an image and holds those that are missing, uncompressed, as a layer's digest is then the one in
the image's configuration. Once containerd has unpacked a layer its archive is taken away: containers are made
of what was unpacked, and each layer would take its bytes twice.
"""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Final

from tests.cluster.buildah import BUILDAH, buildah
from tests.cluster.host import HostError, say
from tests.cluster.node import NodeFolders, ctr, ctr_command

BLOBS: Final = "blobs/sha256"
LONGEST_MANIFEST_BYTES: Final = 4 * 1024**2
"""More than a registry takes; a layer's archive may be of any size, and is no JSON."""


def load_images(folders: NodeFolders, names: Sequence[str], kept: Sequence[str] = ()) -> None:
    """Hand images to containerd that it does not have, and take away all others, but for those to be kept.

    Raises:
        HostError: buildah or containerd failed.
    """
    there = _digests_by_name(folders)
    missing = [name for name in names if name not in there]
    if missing:
        start = time.monotonic()
        _load(folders, missing)
        _remove_archives(folders)
        os.sync()  # else etcd and the next pods wait behind gigabytes that are still to be written
        say(f"{' '.join(missing)} loaded in {time.monotonic() - start:.0f} s")
    there = _digests_by_name(folders)
    wanted = {there[name] for name in (*names, *kept) if name in there}
    # containerd knows each image by its configuration's digest too; what that names is kept as well.
    for name, digest in there.items():
        if digest not in wanted:
            ctr(folders, "images", "remove", name)


def _digests_by_name(folders: NodeFolders) -> Mapping[str, str]:
    lines = ctr(folders, "images", "list").splitlines()[1:]  # REF TYPE DIGEST SIZE ...
    return {line.split()[0]: line.split()[2] for line in lines}


def _load(folders: NodeFolders, names: Sequence[str]) -> None:
    importing = subprocess.Popen(
        ctr_command(folders, "images", "import", "-"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert importing.stdin is not None
    with tarfile.open(fileobj=importing.stdin, mode="w|") as archive:
        writer = _Archive(archive, _unpacked(folders), _layer_sizes(folders))
        for name in names:
            writer.add(name)
        writer.finish()
    importing.stdin.close()
    if importing.wait() != 0:
        raise HostError(f"containerd could not import {' '.join(names)}; its message is above")


def _unpacked(folders: NodeFolders) -> Set[str]:
    """Chain IDs of the layers that containerd has unpacked, each on the layers below it."""
    lines = ctr(folders, "snapshots", "list").splitlines()[1:]  # KEY PARENT KIND
    return {line.split()[0] for line in lines if line.split()[-1] == "Committed"}


def _chain_ids(layers: Sequence[str]) -> Iterator[str]:
    """The chain ID of every layer (image-spec, config.md, "Layer ChainID")."""
    chain = ""
    for digest in layers:
        chain = f"sha256:{hashlib.sha256(f'{chain} {digest}'.encode()).hexdigest()}" if chain else digest
        yield chain


def _layer_sizes(folders: NodeFolders) -> dict[str, int]:
    """Bytes of every layer that a manifest in containerd names, by digest."""
    return {digest: size for layers in _manifests(folders) for digest, size in layers.items()}


def _remove_archives(folders: NodeFolders) -> None:
    there = {f"sha256:{path.name}" for path in _blobs(folders)}
    archives = there & {digest for layers in _manifests(folders) for digest in layers}
    if archives:
        ctr(folders, "content", "delete", *archives)


def _manifests(folders: NodeFolders) -> list[dict[str, int]]:
    """Of every image's manifest in containerd: the bytes of its layers, by digest."""
    texts = [path.read_bytes() for path in _blobs(folders) if path.stat().st_size < LONGEST_MANIFEST_BYTES]
    documents = [json.loads(text) for text in texts if text.startswith(b"{")]
    return [
        {layer["digest"]: layer["size"] for layer in document["layers"]}
        for document in documents
        if "layers" in document
    ]


def _blobs(folders: NodeFolders) -> list[Path]:
    return [*(folders.images / "io.containerd.content.v1.content" / BLOBS).glob("*")]


class _Archive:
    """An OCI archive that is being written (image-spec, image-layout.md)."""

    def __init__(self, archive: tarfile.TarFile, unpacked: Set[str], sizes: dict[str, int]) -> None:
        self._archive = archive
        self._unpacked = unpacked
        self._sizes = sizes
        self._written: set[str] = set()
        self._manifests: list[Mapping[str, object]] = []

    def add(self, name: str) -> None:
        """Add an image, and those of its layers that are missing."""
        config = buildah("inspect", "--type=image", "--format={{.Config}}", name).strip().encode()
        layers: Sequence[str] = json.loads(config)["rootfs"]["diff_ids"]
        chains = zip(layers, _chain_ids(layers), strict=True)
        missing = {digest for digest, chain in chains if chain not in self._unpacked} - self._written
        if missing or not set(layers) <= self._sizes.keys():
            self._add_layers(name, missing)
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._add_blob("application/vnd.oci.image.config.v1+json", config),
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": digest,
                    "size": self._sizes[digest],
                }
                for digest in layers
            ],
        }
        entry = self._add_blob(str(manifest["mediaType"]), json.dumps(manifest).encode())
        self._manifests.append({**entry, "annotations": {"io.containerd.image.name": name}})

    def finish(self) -> None:
        """Write the index, which names the images."""
        self._add_file("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        self._add_file("index.json", json.dumps({"schemaVersion": 2, "manifests": self._manifests}).encode())

    def _add_layers(self, name: str, missing: Set[str]) -> None:
        command = [*BUILDAH, "push", "--quiet", name, f"docker-archive:/dev/stdout:{name}"]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as pushing,
            tarfile.open(fileobj=pushing.stdout, mode="r|") as image,
        ):
            for member in image:
                digest = f"sha256:{Path(member.name).stem}"
                # There are links to the layers too, with names of an older format.
                if not (member.isfile() and member.name.endswith(".tar")):
                    continue
                self._sizes[digest] = member.size
                if digest in missing:
                    entry = tarfile.TarInfo(f"{BLOBS}/{Path(member.name).stem}")
                    entry.size = member.size
                    self._archive.addfile(entry, image.extractfile(member))
                    self._written.add(digest)
        if pushing.returncode != 0:
            raise HostError(f"buildah could not push {name}; its message is above")

    def _add_blob(self, media_type: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        self._add_file(f"{BLOBS}/{digest}", content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def _add_file(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        self._archive.addfile(entry, io.BytesIO(content))
