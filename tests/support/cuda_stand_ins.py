"""Makes PyPI's torch load without NVIDIA's libraries, which take 3 GB and which nothing here calls.

    python tests/support/cuda_stand_ins.py SITE_PACKAGES

PyPI has no build of torch for CPUs on x86. Its CUDA build computes on CPUs as well, but refers to functions
of NVIDIA's libraries, and is loaded only if each of them is found. So a small stand-in is put beside torch
for each library that is missing: it has the functions that torch refers to, under their names and versions.
They trap when called, and without a GPU none is.

Needs pyelftools, to read what torch refers to, and ziglang, to compile; `make environment` brings both for as
long as this runs.
"""

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from elftools.elf.elffile import ELFFile

NVIDIA: Final = ("libcu", "libnccl.", "libnv")
"""First letters of the names of NVIDIA's libraries."""
DRIVER: Final = "libcuda.so.1"
"""Comes with a GPU's driver and not with a package; torch looks for it when a GPU is used, and not before."""
OTHERS: Final = ("_Z", "Py", "_Py")
"""First letters of the functions of C++ and of Python. NVIDIA's are C, so these are never theirs; a stand-in
that had them would be called instead of the real ones."""

SYMBOL: Final = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
"""Elf64_Sym of the System V ABI."""
WEAK: Final = 2
"""STB_WEAK: the binding in the upper half of a symbol's info."""
VERSION_BITS: Final = 0x7FFF
"""Of an entry of .gnu.version; the rest is a flag."""


@dataclass(frozen=True)
class Library:
    """What the dynamic section of one shared library says."""

    needed: Set[str]
    """File names of the libraries that it has to be loaded with."""
    defined: Set[str]
    """Names of the symbols that others may use."""
    versioned: Mapping[str, Set[tuple[str, str]]]
    """By file name of a library: symbols wanted from it, each with its version."""
    unversioned: Set[str]
    """Symbols wanted from whichever library has them; weak ones, which may be missing, are left out."""


def read_library(path: Path) -> Library:
    """Read a shared library (64-bit ELF of little-endian order, with GNU's tables of symbol versions)."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        needed = {tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
        wanted = elf.get_section_by_name(".gnu.version_r")
        versions = {
            version["vna_other"] & VERSION_BITS: (file.name, version.name)
            for file, found in (wanted.iter_versions() if wanted else ())
            for version in found
        }
        # Not by pyelftools, which takes 16 s for the symbols of torch.
        symbols = np.frombuffer(elf.get_section_by_name(".dynsym").data(), SYMBOL)
        numbers = np.frombuffer(elf.get_section_by_name(".gnu.version").data(), "<u2") & VERSION_BITS
        texts = elf.get_section_by_name(".dynstr").data()
    is_defined = symbols["section"] != 0
    is_weak = symbols["info"] >> 4 == WEAK
    versioned: dict[str, set[tuple[str, str]]] = defaultdict(set)
    unversioned = set()
    for name, number, weak in zip(
        _names(symbols[~is_defined], texts), numbers[~is_defined].tolist(), is_weak[~is_defined], strict=True
    ):
        if number in versions:
            file, version = versions[number]
            versioned[file].add((name, version))
        elif name and not weak:
            unversioned.add(name)
    return Library(needed, set(_names(symbols[is_defined], texts)), dict(versioned), unversioned)


def _names(symbols: np.ndarray, texts: bytes) -> list[str]:
    starts = symbols["name"].tolist()
    return [texts[start : texts.index(b"\0", start)].decode() for start in starts]


def compile_stand_in(
    path: Path, unversioned: Iterable[str], versioned: Iterable[tuple[str, str]], scratch: Path
) -> None:
    """Write a shared library whose functions trap; its file name is its name to the loader.

    `scratch` is a folder for the sources and for what zig caches.
    """
    by_version = defaultdict(list)
    for name, version in sorted(versioned):
        by_version[version].append(name)
    functions = sorted({*unversioned, *(name for names in by_version.values() for name in names)})
    source, script = scratch / "stand_in.c", scratch / "versions"
    source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in functions))
    script.write_text(
        "".join(
            f"{version} {{ global: {' '.join(f'{name};' for name in names)} }};\n"
            for version, names in by_version.items()
        )
    )
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-nostdlib", "-fno-builtin", "-w"]
    command += ["-fno-sanitize=undefined", f"-Wl,-soname,{path.name}"]
    command += [f"-Wl,--version-script={script}"] if by_version else []
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(scratch / "zig"), "ZIG_LOCAL_CACHE_DIR": str(scratch / "zig")}
    subprocess.run([*command, "-o", str(path), str(source)], env={**os.environ, **caches}, check=True)


def main(packages: Path) -> None:
    """Put what is missing beside torch."""
    folder = packages / "torch" / "lib"
    libraries = {path.name: read_library(path) for path in sorted(folder.glob("*.so*"))}
    there = {path.name for path in packages.rglob("*.so*")}
    missing = {
        name
        for library in libraries.values()
        for name in library.needed
        if name.startswith(NVIDIA) and name != DRIVER and name not in there
    }
    defined = {name for library in libraries.values() for name in library.defined}
    wanted = {name for library in libraries.values() for name in library.unversioned} - defined
    unversioned = {name for name in wanted if not name.startswith(OTHERS)}
    with tempfile.TemporaryDirectory() as scratch:
        for name in sorted(missing):
            versioned = {pair for library in libraries.values() for pair in library.versioned.get(name, ())}
            compile_stand_in(folder / name, () if versioned else unversioned, versioned, Path(scratch))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
