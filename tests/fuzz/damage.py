"""Seeded damage to what is no dataset: bytes, JSON, YAML, and the boxes of an mp4 file."""

import json
import random
import struct
from collections.abc import Iterator
from typing import Any

from tests.support.mutations import NUMBERS, TEXTS, nested

CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"mvex"})
"""Boxes that hold boxes: ISO/IEC 14496-12."""
BIG = (0, 1, 0x7F, 0xFF, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)


def spoil(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Bytes that a bad disk, or somebody with an editor, might leave."""
    spoiled = bytearray(content)
    way = draw.choice(["flip", "cut", "double", "zero", "empty", "junk"])
    where = draw.randrange(max(len(spoiled), 1))
    if way == "flip" and spoiled:
        for _ in range(draw.choice([1, 4, 64])):
            spoiled[draw.randrange(len(spoiled))] ^= draw.randrange(1, 256)
    elif way == "cut":
        del spoiled[where:]
    elif way == "double":
        spoiled += spoiled[where:]
    elif way == "zero":
        spoiled[where : where + 64] = bytes(len(spoiled[where : where + 64]))
    elif way == "empty":
        spoiled.clear()
    else:
        spoiled[where:where] = draw.randbytes(draw.choice([1, 16, 4096]))
    return bytes(spoiled), f"{way} at {where}"


def change(value: Any, draw: random.Random) -> str:
    """Put another value in one place of a JSON value, or take the place away; what was done."""
    holder, key = draw.choice(list(places(value)))
    if draw.random() < 0.2 and key != "more":
        del holder[key]
        return f"no {key!r}"
    if isinstance(holder, list) and key == "more":
        holder.append(another_value(draw))
        return f"one more: {holder[-1]!r:.60}"
    holder[key] = another_value(draw)
    return f"{key!r} = {holder[key]!r:.60}"


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Holder and key of each place in a JSON value, and one more for each holder."""
    if isinstance(value, dict | list):
        for key in [*value] if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])
        yield value, "more"


def another_value(draw: random.Random) -> Any:
    """Some JSON value that nobody expects."""
    others: tuple[Any, ...] = (
        True, False, [], {}, ["x"], {"a": 1}, [[1, 2]], nested(300), 10**400, {"": None}, "y" * 200_000,
    )  # fmt: skip
    return draw.choice([*NUMBERS, *TEXTS, *others])


def change_text(text: bytes, draw: random.Random) -> tuple[bytes, str]:
    """A JSON text with another value in it, or spoiled as a text."""
    if draw.random() < 0.4:
        return spoil(text, draw)
    try:
        value = json.loads(text)
    except ValueError:
        return spoil(text, draw)
    if not isinstance(value, dict | list):
        return json.dumps(another_value(draw)).encode(), "another value"
    done = change(value, draw)
    return json.dumps(value).encode(), done


def boxes(content: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Start, end and name of each box of an mp4 file, those within others too."""
    end = len(content) if end is None else end
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", content, start)
        stop = start + size if size >= 8 else end
        yield start, min(stop, end), name
        if name in CONTAINERS:
            yield from boxes(content, start + 8, min(stop, end))
        start = stop


def change_boxes(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Another number in a box of an mp4 file; a box away, twice, of another name; or bytes in its tables."""
    found = [box for box in boxes(content) if box[2] != b"mdat"]
    start, end, name = draw.choice(found)
    changed = bytearray(content)
    way = draw.choice(["size", "name", "number", "number", "number", "bytes", "away", "twice", "media"])
    if way == "size":
        struct.pack_into(">I", changed, start, draw.choice(BIG))
    elif way == "name":
        changed[start + 4 : start + 8] = draw.choice([b"free", b"moov", b"stts", b"\0\0\0\0", b"uuid"])
    elif way == "number" and end - start >= 12:
        place = start + 8 + 4 * draw.randrange((end - start - 8) // 4)
        struct.pack_into(">I", changed, place, draw.choice(BIG))
    elif way == "bytes":
        for _ in range(draw.choice([1, 4, 16])):
            changed[draw.randrange(start, end)] ^= draw.randrange(1, 256)
    elif way == "away":
        del changed[start:end]
    elif way == "twice":
        changed[end:end] = content[start:end]
    else:
        for _ in range(draw.choice([1, 16, 256])):
            changed[draw.randrange(len(changed))] ^= draw.randrange(1, 256)
    return bytes(changed), f"{way} of {name!r} at {start}"
