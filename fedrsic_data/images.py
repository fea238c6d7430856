"""Is this file an image, whole and of a sane size? Answered without decoding wherever that is possible.

The quick look reads the header's size and the end of the file, which catches empty, foreign, huge and
truncated files in some microseconds; a PNG file also carries checksums, which must hold. What it cannot vouch
for is decoded in full by Pillow, so a file that any decoder can read is never refused.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

from fedrsic_data.errors import BadImageError

MAX_PIXELS = 178_956_970
"""Largest width x height accepted (Pillow's own limit against decompression bombs)."""

MAX_BYTES = 64 * 2**20
"""Largest image file accepted, in bytes: it must fit a row group."""

MAX_SHOWN = 25_000_000
"""Largest width x height that is decoded to show it small: 75 MB of memory."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
"""File names that are taken for images, lower case."""

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")  # what Pillow calls them; it knows many more
_REPLACE = "replace the file, or use --on-bad-image skip"
_AGAIN = "fetch it again, or use --on-bad-image skip"


def check(data: bytes, name: str) -> tuple[int, int]:
    """Accepts a complete image file.

    Args:
        data: The file's bytes.
        name: The file, for messages.

    Returns:
        Width and height in pixels.

    Raises:
        BadImageError: Empty, too large, not an image, or truncated.
    """
    if not data:
        raise BadImageError(f"{name}: the file is empty (0 bytes); {_AGAIN}")
    if len(data) > MAX_BYTES:
        raise BadImageError(f"{name}: {len(data):,} bytes is over the limit of {MAX_BYTES:,} for one image; {_REPLACE}")
    try:
        size = _quick(data)
    except BadImageError as error:
        raise BadImageError(f"{name}: {error}; {_AGAIN}") from None
    if size is None or 0 in size:
        return _decode(data, name)
    _bounded(size, name)
    return size


def thumbnail(data: bytes, name: str, side: int) -> bytes:
    """A small JPEG of an image, its longer side at most ``side`` pixels.

    Args:
        data: The file's bytes; what ``check`` refuses is never decoded.
        name: The file, for messages.
        side: In pixels.

    Raises:
        BadImageError: As ``check``, or it has more than ``MAX_SHOWN`` pixels, or cannot be decoded.
    """
    from PIL import Image, ImageOps

    size = check(data, name)
    if size[0] * size[1] > MAX_SHOWN:
        raise BadImageError(f"{name}: {size[0]:,} x {size[1]:,} pixels are too many to show")
    made = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.draft("RGB", (2 * side, 2 * side))  # a JPEG is decoded no larger than it must
            small = image.convert("RGB")
            small.thumbnail((side, side))
            ImageOps.exif_transpose(small).save(made, "JPEG", quality=72, optimize=True)
    except Exception as error:  # decoders raise a dozen kinds over damaged files
        raise BadImageError(f"{name}: damaged image ({error})") from None
    return made.getvalue()


def _bounded(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise BadImageError(f"{name}: {size[0]:,} x {size[1]:,} pixels is over the limit of {MAX_PIXELS:,}; {_REPLACE}")


def _quick(data: bytes) -> tuple[int, int] | None:
    """Width and height if the structure vouches that the file is whole, else None."""
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _jpeg(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _png(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data)
    except (struct.error, IndexError):
        pass
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Header size; whole if an end-of-image marker follows the start of scan (scan data cannot contain one)."""
    at, size = 2, None
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            if data.endswith(b"\xff\xd9") or data.rfind(b"\xff\xd9") > at:
                return size
            raise BadImageError("damaged image (truncated: no end marker)")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            size = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


_PNG_CHUNK = struct.Struct(">I4s")


def _png(data: bytes) -> tuple[int, int] | None:
    """Header size; whole if its chunks end with the last kind and those that carry the picture have their checksums."""
    at, kind, kinds = 8, b"", set()
    view = memoryview(data)
    while kind != b"IEND":
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        end = at + 12 + length
        if end > len(data):
            raise BadImageError(f"damaged image (truncated: chunk at byte {at:,} is cut short)")
        critical = not kind[0] & 32  # all others a decoder may do without
        if critical and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise BadImageError(f"damaged image (chunk at byte {at:,} does not have its checksum)")
        kinds.add(kind)
        at = end
    if data[12:16] != b"IHDR" or b"IDAT" not in kinds:
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _tiff(data: bytes) -> tuple[int, int] | None:
    """First directory of a classic TIFF; whole if every strip or tile lies inside the file."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(order + "I", data, 4)[0]
    tags: dict[int, Sequence[int]] = {}
    for i in range(struct.unpack_from(order + "H", data, at)[0]):
        tag, kind, count, value = struct.unpack_from(order + "HHII", data, at + 2 + 12 * i)
        if tag in (256, 257, 273, 279, 324, 325) and kind in (3, 4):
            code, width = ("H", 2) if kind == 3 else ("I", 4)
            if count > len(data):
                return None
            start = at + 2 + 12 * i + 8 if count * width <= 4 else value
            tags[tag] = struct.unpack_from(f"{order}{count}{code}", data, start)
    offsets, lengths = tags.get(273, tags.get(324)), tags.get(279, tags.get(325))
    if not offsets or not lengths or len(offsets) != len(lengths) or 256 not in tags or 257 not in tags:
        return None
    if any(o + n > len(data) or n == 0 for o, n in zip(offsets, lengths, strict=True)):
        return None
    return tags[256][0], tags[257][0]


def _decode(data: bytes, name: str) -> tuple[int, int]:
    """The slow path: Pillow's full decode decides."""
    import warnings

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow only warns of it can still read
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                size = image.size
                _bounded(size, name)
                image.load()
    except BadImageError:
        raise
    except Image.DecompressionBombError:
        raise BadImageError(f"{name}: more pixels than the limit of {MAX_PIXELS:,}; {_REPLACE}") from None
    except UnidentifiedImageError:
        raise BadImageError(
            f"{name}: not an image of {', '.join(_FORMATS)} (first bytes {data[:8]!r}); {_REPLACE}"
        ) from None
    except Exception as error:  # decoders raise a dozen kinds over damaged files
        raise BadImageError(f"{name}: damaged image ({error}); {_AGAIN}") from None
    return size
