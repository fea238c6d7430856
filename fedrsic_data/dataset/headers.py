"""Read headers of image files without a decoder: the size, whether the file is whole, and the pixel format.

A JPEG file ends with a marker, and no second picture begins before it does; the chunks of a PNG file carry checksums,
and its notes unpack to a bounded size; the strips of a TIFF file lie inside it. This catches truncated and joined
files in some microseconds.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.errors import BadImageError

MAX_NOTE = 2**20
"""Bytes that one packed note of a PNG file, or its colour profile, may unpack to (Pillow's limit too)."""

MAX_NOTES = 64 * 2**20
"""Bytes of all notes of a PNG file together, unpacked."""


MAX_SCANS = 500
"""Scans of a JPEG file; a progressive one has about ten."""


class Header(NamedTuple):
    """Facts about a file whose structure vouches that it is whole.

    Attributes:
        width: In pixels.
        height: In pixels.
        plain: Whether it holds 8 bits a channel in a way that every decoder knows; else a decoder has to say.
    """

    width: int
    height: int
    plain: bool


def read(data: bytes) -> Header | None:
    """The header of a JPEG, PNG or TIFF file; None for all that these few lines cannot vouch for.

    Raises:
        BadImageError: It is cut short, two files are joined, or its notes are too large.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _jpeg(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _png(data)
        if data[:4] in _TIFF:
            return _tiff(data)
    except (struct.error, IndexError, OverflowError):
        pass
    return None


def bands(data: bytes) -> str:
    """The channels of a TIFF file in words: ``13 bands of 16-bit whole numbers``; empty for what is none."""
    try:
        tags = _tags(data) if data[:4] in _TIFF else {}
    except (struct.error, IndexError, OverflowError):
        return ""
    if not tags:
        return ""
    count = tags.get(_SAMPLES, (1,))[0]
    kind = {1: "whole numbers", 2: "signed numbers", 3: "floats", 5: "complex numbers", 6: "complex numbers"}
    words = kind.get(tags.get(_NUMBERS, (1,))[0], "values")
    return f"{count} band{'s' if count != 1 else ''} of {tags.get(_BITS, (1,))[0]}-bit {words}"


_SCAN, _START, _END = 0xDA, 0xD8, 0xD9
_IN_SCAN = np.zeros(256, bool)  # what may follow 0xFF inside the data of a scan
_IN_SCAN[[0x00, 0xFF, *range(0xD0, 0xD8)]] = True


def _jpeg(data: bytes) -> Header | None:
    """Frame header; whole if all scans end in a segment that may follow them, the last in the end marker."""
    at, size, plain, scans = 2, None, False, 0
    marks = np.zeros(0, np.int64)
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _END:
            return Header(*size, plain) if size and scans else None
        if marker == _SCAN:
            marks = marks if scans else _marks(data, at)
            scans, following = scans + 1, int(np.searchsorted(marks, at, side="right"))
            if scans > MAX_SCANS:
                raise BadImageError(f"over {MAX_SCANS} scans, each of which is decoded in full")
            if following == len(marks):
                raise BadImageError("damaged image (truncated: no end marker)")
            at = int(marks[following])
            if data[at + 1] == _START:
                raise BadImageError(f"damaged image (truncated: at byte {at:,} another image begins)")
            if data[at + 1] < 0xC0:  # reserved: a decoder may know better
                return None
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            size = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
            plain = marker <= 0xC2 and data[at + 4] == 8 and data[at + 9] in (1, 3, 4)
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def _marks(data: bytes, start: int) -> NDArray[np.int64]:
    """Where markers are after the one at ``start``, int64 [n], as far as they are no part of a scan's data."""
    view = np.frombuffer(data, np.uint8)[start + 2 :]
    found = np.flatnonzero(view[:-1] == 0xFF)
    return found[~_IN_SCAN[view[found + 1]]] + start + 2


_PNG_CHUNK = struct.Struct(">I4s")


def _png(data: bytes) -> Header | None:
    """Header size; whole if its chunks end with the last kind and have their checksums.

    Notes behind the picture may be damaged: every decoder passes over them.
    """
    at, kind, kinds, notes = 8, b"", set(), 0
    view = memoryview(data)
    while kind != b"IEND":
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        end = at + 12 + length
        if end > len(data):
            raise BadImageError(f"damaged image (truncated: chunk at byte {at:,} is cut short)")
        needed = not kind[0] & 32 or b"IDAT" not in kinds
        if needed and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise BadImageError(f"damaged image (chunk at byte {at:,} does not have its checksum)")
        if kind in _NOTES:
            notes += _unpacked(kind, bytes(view[at + 8 : end - 4]))
            if notes > MAX_NOTES:
                raise BadImageError(f"its notes are over {MAX_NOTES:,} bytes")
        kinds.add(kind)
        at = end
    if data[12:16] != b"IHDR" or b"IDAT" not in kinds:
        return None
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    return Header(width, height, depth in _DEPTHS.get(colour, ()))


_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # bits by colour type
_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def _unpacked(kind: bytes, body: bytes) -> int:
    """Bytes of a note of a PNG file once it is unpacked, no more of which are made than are allowed."""
    _, _, rest = body.partition(b"\0")
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] != b"\1"):
        return len(body)
    packed = rest[1:] if kind != b"iTXt" else rest[2:].split(b"\0", 2)[-1]
    try:
        size = len(zlib.decompressobj().decompress(packed, MAX_NOTE + 1))
    except zlib.error:
        return len(body)  # decoders pass over it
    if size > MAX_NOTE:
        raise BadImageError(f"its note {kind.decode()} unpacks to over {MAX_NOTE:,} bytes")
    return size


_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two have places of 8 bytes
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _NUMBERS = 256, 257, 258, 262, 277, 339
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 279, 324, 325
_WANTED = (_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _NUMBERS, _STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES)
_PLAIN = {(0, (8,)), (1, (8,)), (2, (8, 8, 8))}  # photometric interpretation and bits: grey either way, RGB


def _tiff(data: bytes) -> Header | None:
    """First directory; whole if every strip or tile lies inside the file."""
    tags = _tags(data)
    offsets, lengths = tags.get(_STRIPS, tags.get(_TILES)), tags.get(_STRIP_BYTES, tags.get(_TILE_BYTES))
    if not offsets or not lengths or len(offsets) != len(lengths) or _WIDTH not in tags or _HEIGHT not in tags:
        return None
    if any(o + n > len(data) or n == 0 for o, n in zip(offsets, lengths, strict=True)):
        return None
    layout = tags.get(_PHOTOMETRIC, (0,))[0], tuple(tags.get(_BITS, (1,)))
    return Header(tags[_WIDTH][0], tags[_HEIGHT][0], layout in _PLAIN and set(tags.get(_NUMBERS, (1,))) == {1})


def _tags(data: bytes) -> dict[int, Sequence[int]]:
    """The values of those tags of a TIFF's first directory that are looked at here."""
    order, big = ("<" if data[:2] == b"II" else ">"), b"+" in data[2:4]
    place, number = ("Q", "Q") if big else ("I", "H")
    at = struct.unpack_from(order + place, data, 8 if big else 4)[0]
    entry = struct.Struct(f"{order}HH{place}{place}")
    first, wide = at + struct.calcsize(order + number), struct.calcsize(order + place)
    tags: dict[int, Sequence[int]] = {}
    for i in range(min(struct.unpack_from(order + number, data, at)[0], 4096)):
        tag, kind, count, value = entry.unpack_from(data, first + entry.size * i)
        if tag in _WANTED and kind in _CODES and count <= len(data):
            code = _CODES[kind]
            inside = count * struct.calcsize(order + code) <= wide
            start = first + entry.size * (i + 1) - wide if inside else value
            tags[tag] = struct.unpack_from(f"{order}{count}{code}", data, start)
    return tags


_CODES = {3: "H", 4: "I", 16: "Q"}
