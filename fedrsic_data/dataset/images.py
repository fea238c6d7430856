"""The one way to turn a file into pixels, and to say beforehand whether there is one.

``check`` looks at the header and the structure of a file, which catches empty, foreign, huge, truncated and joined
files, and those that cannot be given as RGB, in some microseconds. What the structure cannot vouch for is decoded in
full by Pillow, so a file that it can read is never refused. ``rgb`` gives the picture, by these rules:

- Six formats; no other decoder of Pillow's is ever reached. At most ``MAX_PIXELS``.
- The first picture of a file that holds several, turned upright as its EXIF orientation says.
- 16 bits a channel, grey or colour: the upper 8. Floats: 0..1 becomes 0..255, and others are refused.
- Transparency is left out: the colours are those that the file has, whatever their alpha.
- CMYK goes through the embedded profile to sRGB; without one that can be used, as Pillow converts it.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.dataset import headers
from fedrsic_data.errors import BadImageError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_PIXELS = 89_478_485
"""Largest width x height accepted (above it, Pillow warns of a decompression bomb): 268 MB as RGB."""

MAX_BYTES = 64 * 2**20
"""Largest image file accepted, in bytes: it must fit a row group."""

MAX_SHOWN = 25_000_000
"""Largest width x height that is decoded to show it small: 75 MB of memory."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
"""File names that are taken for images, lower case."""

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")  # what Pillow calls them; it knows many more
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "F")
_REPLACE = "replace the file, or use --on-bad-image skip"
_AGAIN = "fetch it again, or use --on-bad-image skip"
_CONVERT = "convert it to 8-bit RGB, or use --on-bad-image skip"


def check(data: bytes | None, name: str) -> tuple[int, int]:
    """Accepts a complete image file that ``rgb`` can give.

    Args:
        data: The file's bytes.
        name: The file, for messages.

    Returns:
        Width and height in pixels.

    Raises:
        BadImageError: Missing, empty, too large, not an image, truncated, or no RGB can be made of it.
    """
    held, header = _looked(data, name)
    if header is not None and header.plain:
        return header[:2]
    with _opened(held, name) as image:  # its header only
        if header is None or image.mode == "F":  # the values of floats decide
            _converted(image, name)
        return image.size


def rgb(data: bytes | None, name: str) -> Picture:
    """The picture in a file, by the rules above.

    Args:
        data: The file's bytes; what ``check`` refuses is refused before it is decoded, as far as that can be.
        name: The file, for messages.

    Returns:
        A ``PIL.Image`` of mode RGB.

    Raises:
        BadImageError: As ``check``, or it cannot be decoded.
    """
    return _decoded(_looked(data, name)[0], name)


def thumbnail(data: bytes, name: str, side: int) -> bytes:
    """A small JPEG of an image, its longer side at most ``side`` pixels.

    Args:
        data: The file's bytes; what ``check`` refuses is never decoded.
        name: The file, for messages.
        side: In pixels.

    Raises:
        BadImageError: As ``rgb``, or it has more than ``MAX_SHOWN`` pixels.
    """
    small = _decoded(_looked(data, name)[0], name, MAX_SHOWN, side)
    small.thumbnail((side, side))
    made = io.BytesIO()
    small.save(made, "JPEG", quality=72, optimize=True)
    return made.getvalue()


def _looked(data: bytes | None, name: str) -> tuple[bytes, headers.Header | None]:
    """The bytes, and what their structure says; None: a decoder has to say it."""
    if data is None:
        raise BadImageError(f"{name}: has no bytes (null); {_REPLACE}")
    if not data:
        raise BadImageError(f"{name}: the file is empty (0 bytes); {_AGAIN}")
    if len(data) > MAX_BYTES:
        raise BadImageError(f"{name}: {len(data):,} bytes is over the limit of {MAX_BYTES:,} for one image; {_REPLACE}")
    try:
        header = headers.read(data)
    except BadImageError as error:
        raise BadImageError(f"{name}: {error}; {_AGAIN}") from None
    if header is None or 0 in header[:2]:
        return data, None
    _bounded(header[:2], name)
    return data, header


def _bounded(size: tuple[int, int], name: str, most: int = MAX_PIXELS) -> None:
    if size[0] * size[1] <= most:
        return
    shown = f"{name}: {size[0]:,} x {size[1]:,} pixels"
    if most == MAX_SHOWN:
        raise BadImageError(f"{shown} are too many to show")
    raise BadImageError(f"{shown} is over the limit of {most:,}; {_REPLACE}")


# Pillow logs some of what it raises as well; with no handler at all, Python would print that on the standard error
logging.getLogger("PIL").addHandler(logging.NullHandler())
_QUIET = threading.Lock()  # filters of warnings belong to the whole process


@contextmanager
def _opened(data: bytes, name: str, most: int = MAX_PIXELS) -> Iterator[Picture]:
    """An image whose header was read, and no more; whatever goes wrong inside is damage.

    Raises:
        BadImageError: Not an image, too many pixels, damaged, or not to be given as RGB.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow only warns of it can still read
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        with image:
            _bounded(image.size, name, most)
            _servable(image, name)
            yield image
    except BadImageError:
        raise
    except Image.DecompressionBombError:
        raise BadImageError(f"{name}: more pixels than the limit of {MAX_PIXELS:,}; {_REPLACE}") from None
    except UnidentifiedImageError:
        raise BadImageError(f"{name}: {_unknown(data)}") from None
    except Exception as error:  # decoders raise a dozen kinds over damaged files
        raise BadImageError(f"{name}: damaged image ({_words(error)}); {_AGAIN}") from None


def _unknown(data: bytes) -> str:
    """Describe why Pillow cannot open a file."""
    if kind := headers.bands(data):
        return f"a TIFF of {kind} cannot be given as RGB; {_CONVERT}"
    if data.startswith(_MAGIC):
        return f"damaged image (its header cannot be read); {_AGAIN}"
    return f"not an image of {', '.join(_FORMATS)} (first bytes {data[:8]!r}); {_REPLACE}"


def _words(error: Exception) -> str:
    """A decoder's message in one line, without the addresses of Python's objects."""
    return re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "file", " ".join(str(error).split())) or type(error).__name__


def _servable(image: Picture, name: str) -> None:
    """Refuses an opened image of a mode that says nothing of how dark and bright its values are.

    Raises:
        BadImageError: Such a mode; or 16-bit channels stored apart, of which Pillow makes noise.
    """
    if image.mode not in _MODES and not image.mode.startswith("I;16"):
        raise BadImageError(f"{name}: an image of mode {image.mode} cannot be given as RGB; {_CONVERT}")
    bits = _tag(image, "BitsPerSample", (8,))
    if len(bits) > 1 and max(bits) > 8 and _tag(image, "PlanarConfiguration", 1) == 2:
        raise BadImageError(
            f"{name}: a TIFF of {len(bits)} bands of {max(bits)} bits, stored apart, cannot be given as RGB; {_CONVERT}"
        )


_TAGS = {"BitsPerSample": 258, "PhotometricInterpretation": 262, "PlanarConfiguration": 284}


def _tag(image: Picture, name: str, default: Any) -> Any:
    """A tag of a TIFF file; the default for any other."""
    tags = getattr(image, "tag_v2", None)
    return default if tags is None else tags.get(_TAGS[name], default)


def _decoded(data: bytes, name: str, most: int = MAX_PIXELS, side: int | None = None) -> Picture:
    """RGB, upright.

    Args:
        data: The file.
        name: For messages.
        most: Pixels.
        side: None, or a JPEG may be decoded smaller, though its sides stay about twice that.
    """
    with _opened(data, name, most) as image:
        if side is not None:
            image.draft("RGB", (2 * side, 2 * side))
        picture = _converted(image, name)  # reads the pixels: some formats have their EXIF data behind them
        return _upright(image, picture)


def _converted(image: Picture, name: str) -> Picture:
    from PIL import Image

    image.load()
    if image.mode.startswith("I;16") or image.mode == "F":
        return Image.fromarray(_grey(image, name)).convert("RGB")
    if image.mode == "CMYK" and (profile := image.info.get("icc_profile")):
        return _printed(image, profile)
    image.info.pop("transparency", None)
    return (image.convert("LA") if image.mode == "La" else image).convert("RGB")


def _grey(image: Picture, name: str) -> NDArray[np.uint8]:
    """uint8 [height, width] of wider values.

    Raises:
        BadImageError: Floats that are not within 0..1.
    """
    values = np.asarray(image)
    if image.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # nor are these numbers
            raise BadImageError(
                f"{name}: an image of floats from {low:g} to {high:g} cannot be given as RGB (0 to 1 can); {_CONVERT}"
            )
        grey = np.rint(values * 255)
    else:
        grey = values >> (max(_tag(image, "BitsPerSample", (16,))) - 8)
    if _tag(image, "PhotometricInterpretation", 1) == 0:  # white is zero
        grey = 255 - grey
    return np.asarray(grey, np.uint8)


def _printed(image: Picture, profile: bytes) -> Picture:
    """CMYK by its profile, or as Pillow does where that is none of CMYK."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        made = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        made = None
    return image.convert("RGB") if made is None else made


_ORIENTATION = 0x0112
_TURNS = [
    "FLIP_LEFT_RIGHT",
    "ROTATE_180",
    "FLIP_TOP_BOTTOM",
    "TRANSPOSE",
    "ROTATE_270",
    "TRANSVERSE",
    "ROTATE_90",
]  # from 2 on


def _upright(image: Picture, picture: Picture) -> Picture:
    """``picture``, which was made of ``image``, as the EXIF orientation of that says; damaged EXIF data say nothing."""
    from PIL.Image import Transpose

    try:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            number = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as many kinds as there are ways to damage a file
        number = 1
    return picture.transpose(Transpose[_TURNS[number - 2]]) if 2 <= number <= 8 else picture
