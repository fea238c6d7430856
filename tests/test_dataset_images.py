"""Whole images are taken, whatever wrote them; damaged ones are not."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from conftest import encoded
from PIL import Image

from fedrsic_data.dataset import images
from fedrsic_data.errors import BadImageError

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8))


WHOLE = {
    "jpeg": encoded("JPEG", NOISE),
    "progressive": encoded("JPEG", NOISE, progressive=True),
    "gray": encoded("JPEG", NOISE.convert("L")),
    "cmyk": encoded("JPEG", NOISE.convert("CMYK")),
    "exif": encoded("JPEG", NOISE, exif=Image.Exif()),
    "trailing": encoded("JPEG", NOISE) + b"camera notes",
    "png": encoded("PNG", NOISE),
    "palette": encoded("PNG", NOISE.convert("P")),
    "tiff": encoded("TIFF", NOISE),
    "lzw": encoded("TIFF", NOISE, compression="tiff_lzw"),
    "gif": encoded("GIF", NOISE),
    "bmp": encoded("BMP", NOISE),
    "webp": encoded("WEBP", NOISE),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_images(name: str) -> None:
    assert images.check(WHOLE[name], name) == (30, 40)


@pytest.mark.parametrize("name", ["jpeg", "progressive", "gray", "cmyk", "trailing", "png", "tiff"])
def test_the_quick_look_serves_the_common_kinds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_opened", None)
    assert images.check(WHOLE[name], name) == (30, 40)


@pytest.mark.parametrize("name", [n for n in WHOLE if n not in ("trailing", "gif")])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(name: str, share: float) -> None:
    whole = WHOLE[name]
    with pytest.raises(BadImageError, match="name.x"):
        images.check(whole[: int(len(whole) * share)], "name.x")


@pytest.mark.parametrize("name", ["jpeg", "png", "tiff"])
def test_a_download_that_was_preallocated_and_never_filled(name: str) -> None:
    whole = WHOLE[name]
    hollow = whole[: len(whole) // 2] + bytes(len(whole) // 2)
    if name == "tiff":  # the directory stands at the end
        hollow = hollow[:8] + bytes(len(hollow) - 8)
    with pytest.raises(BadImageError):
        images.check(hollow, "name.x")


@pytest.mark.parametrize(
    ("data", "words"), [(b"", "empty"), (b"<html>no</html>", "not an image"), (bytes(99), "not an")]
)
def test_not_images(data: bytes, words: str) -> None:
    with pytest.raises(BadImageError, match=words):
        images.check(data, "name.x")


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data, end = b"IDAT", b"IEND"
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(b) - 4) + b + struct.pack(">I", zlib.crc32(b)) for b in (body, data, end)
    )


def test_checksums_of_png() -> None:
    plain = encoded("PNG", NOISE, compress_level=0)  # zeros in its pixels are pixels to any decoder
    middle = plain.index(b"IDAT") + 99
    with pytest.raises(BadImageError, match="does not have its checksum"):
        images.check(plain[:middle] + bytes(999) + plain[middle + 999 :], "name.x")
    note = b"\0\0\0\4tEXtk\0ab" + bytes(4)  # the decoder passes over notes, but for those before the picture
    end = plain.index(b"IEND") - 4
    assert images.check(plain[:end] + note + plain[end:] + b"trailing", "name.x") == (30, 40)
    with pytest.raises(BadImageError, match="does not have its checksum"):
        images.check(plain[:33] + note + plain[33:], "name.x")


def test_other_formats_reach_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", None)
    for data in (encoded("EPS", NOISE), encoded("PPM", NOISE)):
        with pytest.raises(BadImageError, match="not an image of JPEG.*replace the file"):
            images.check(data, "name.jpg")


@pytest.mark.parametrize("error", [RuntimeError, KeyError, AssertionError, OverflowError, MemoryError])
def test_whatever_a_decoder_raises_is_damage(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise error("inside")

    monkeypatch.setattr(Image.Image, "load", fails)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    monkeypatch.setattr("PIL.GifImagePlugin.GifImageFile.load", fails, raising=False)
    with pytest.raises(BadImageError, match="damaged image"):
        images.check(WHOLE["bmp"], "name.x")


def test_a_header_of_ten_thousand_million_pixels() -> None:
    with pytest.raises(BadImageError, match="100,000 x 100,000 pixels is over the limit.*; replace the file, or use"):
        images.check(png_header(100_000, 100_000), "huge.png")
    bmp = bytearray(WHOLE["bmp"])
    bmp[18:26] = struct.pack("<ii", 100_000, 100_000)
    with pytest.raises(BadImageError, match="limit"):
        images.check(bytes(bmp), "huge.bmp")


def test_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(BadImageError, match="over the limit of 100 .*--on-bad-image skip"):
        images.check(WHOLE["png"], "name.x")
