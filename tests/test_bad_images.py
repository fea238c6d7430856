"""Damaged and hostile images in a source: the build stops in one line that names the file, or lists it as skipped."""

from __future__ import annotations

import io
import json
import shutil
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Command, fedkit, refused
from PIL import Image
from small_builds import from_source, nothing, small_source

from fedrsic_data.build.verify import verify


def noisy(kind: str, **how: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **how)
    return file.getvalue()


def header(data: bytes, at: int, form: str, *values: int) -> bytes:
    """A file with other values in its header."""
    patched = bytearray(data)
    struct.pack_into(form, patched, at, *values)
    return bytes(patched)


def huge_png() -> bytes:
    facts = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", facts), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def huge_tiff() -> bytes:
    data = noisy("TIFF")
    at = struct.unpack_from("<I", data, 4)[0]
    for i in range(struct.unpack_from("<H", data, at)[0]):
        entry = at + 2 + 12 * i
        if struct.unpack_from("<H", data, entry)[0] in (256, 257):
            data = header(data, entry + 2, "<HII", 4, 1, 100_000)
    return data


def half(data: bytes, end: bytes = b"") -> bytes:
    """Broken off in the middle, with what belongs at the end."""
    return data[: len(data) // 2] + end


def blanked(data: bytes, end: bytes = b"") -> bytes:
    """Of the right length, zero from the middle on: what a crash of the machine or a sparse copy leaves."""
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2 - len(end)) + end


JPEG, PNG, TIFF, PACKED = noisy("JPEG"), noisy("PNG"), noisy("TIFF"), noisy("TIFF", compression="tiff_lzw")
EOI, IEND = b"\xff\xd9", PNG[-12:]
DAMAGED = {
    "empty.tif": b"",
    "empty.jpg": b"",
    "text.jpg": b"not an image\n" * 9,
    "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
    "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "zeros.png": bytes(999),
    "half.jpg": half(JPEG),
    "half.png": half(PNG),
    "half.tif": half(TIFF),
    "half-packed.tif": half(PACKED),
    "head.jpg": JPEG[:20],
    "head.png": PNG[:20],
    "head.tif": TIFF[:20],
    "no-scan.jpg": JPEG[: JPEG.index(b"\xff\xda")] + EOI,
    "half-with-end.png": half(PNG, IEND),
    "blanked.jpg": blanked(JPEG),
    "blanked.png": blanked(PNG),
    "blanked-with-end.png": blanked(PNG, IEND),
    "blanked-packed.tif": blanked(PACKED),
    "huge.png": huge_png(),
    "huge.jpg": header(JPEG, JPEG.index(b"\xff\xc0") + 5, ">HH", 65_535, 65_535),
    "huge.tif": huge_tiff(),
    "huge.bmp": header(noisy("BMP"), 18, "<ii", 100_000, 100_000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_images_stop_the_build_or_are_listed(command: Command, tmp_path: Path, name: str) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    place = source / "UCMerced_LandUse/Images/beach" / name
    place.write_bytes(DAMAGED[name])
    done = command(*from_source(source, out, "--allow-partial"))
    words = refused(done, place, codes=(1,))
    assert "skip" in words, "the fix is missing"
    nothing(out)
    assert command(*from_source(source, out, "--allow-partial", "--on-bad-image", "skip")).returncode == 0
    facts = json.loads((out / "manifest.json").read_text())["subsets"]["fed-ucmerced"]
    assert [s["sample_id"] for s in facts["skipped"]] == [f"ucmerced/beach/{place.stem}"]
    assert facts["skipped"][0]["reason"]
    assert sum(facts["rows"].values()) == 42
    assert verify(out)[1] == []


@pytest.mark.parametrize("name", ["half-packed.tif", "blanked-packed.tif"])
def test_libraries_keep_quiet_about_damaged_images(tmp_path: Path, name: str) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    place = source / "UCMerced_LandUse/Images/beach" / name
    place.write_bytes(DAMAGED[name])
    refused(fedkit(*from_source(source, out, "--allow-partial")), place, codes=(1,))


@pytest.mark.parametrize("name", ["half-with-end.jpg", "blanked-with-end.jpg"])
def test_an_image_cut_in_the_middle_but_ended_is_found(command: Command, tmp_path: Path, name: str) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    data = {"half-with-end.jpg": half(JPEG, EOI), "blanked-with-end.jpg": blanked(JPEG, EOI)}[name]
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            image.load()
    except OSError:
        pass
    else:
        pytest.skip("this decoder reads it, so it counts as whole")
    (source / "UCMerced_LandUse/Images/beach" / name).write_bytes(data)
    refused(command(*from_source(source, out, "--allow-partial")), name, codes=(1,))
    nothing(out)


def test_nothing_but_damaged_images(command: Command, tmp_path: Path) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    for file in source.rglob("*.tif"):
        file.write_bytes(b"x")
    done = command(*from_source(source, out, "--allow-partial", "--on-bad-image", "skip"))
    refused(done, "fed-ucmerced", "all 42 images were skipped", codes=(1,))
    nothing(out)


def test_a_client_with_nothing_but_damaged_images(command: Command, tmp_path: Path) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    split = from_source(source, out, "--allow-partial", "--on-bad-image", "skip", "--partition", "pathological")
    assert command(*split).returncode == 0
    owners = {row["sample_id"]: row["client_id"] for row in pq.read_table(out / "plan.parquet").to_pylist()}
    shutil.rmtree(out)
    for sample_id, client in owners.items():
        if client == "client-0000":
            (source / "UCMerced_LandUse/Images" / f"{sample_id.removeprefix('ucmerced/')}.tif").write_bytes(b"")
    assert command(*split).returncode == 0
    assert verify(out)[1] == []
    assert command("inspect", out).returncode == 0
    assert command("inspect", out, "--json").returncode == 0
