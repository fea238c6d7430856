"""A file is the same picture everywhere: as it is trained on, in a report, and as `datasets` shows it."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, encoded
from numpy.typing import NDArray
from PIL import Image, ImageFile
from torch.nn import functional

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.build import duplicates, pipeline, plan
from fedrsic_data.cli import new_recipe
from fedrsic_data.dataset import images
from fedrsic_data.dataset.reader import Subset
from fedrsic_data.errors import BadImageError, SourceError
from fedrsic_data.sources.locate import Places
from fedtrain.data import ImageDataset, picture
from fedtrain.methods.networks.album import decoded
from fedtrain.methods.prompts import features
from fedtrain.models import tiny
from fedtrain.models.clip import Clip, fit, frozen, load

Pixels = NDArray[np.uint8]

SIDE = 32
Y, X = np.mgrid[:SIDE, :SIDE]
COLOUR = np.stack([7 * Y, 255 - 8 * X, 3 * Y + 4 * X], -1).astype(np.uint8)  # no turn of it is the same
GREY = COLOUR[..., 2]
WIDE = (GREY.astype(np.uint16) << 8) + 200  # its lower bytes would round up


def grey(values: Pixels) -> Pixels:
    return np.repeat(values[..., None], 3, -1)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values: NDArray[np.generic], colour: int, *more: bytes) -> bytes:
    """A PNG file of uint8 or uint16 [height, width(, channels)]."""
    height, width = values.shape[:2]
    raw = values.astype(values.dtype.newbyteorder(">")).reshape(height, -1)
    lines = b"".join(b"\0" + line.tobytes() for line in raw)
    header = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(values: NDArray[np.generic], photometric: int, order: str = "<", planar: int = 1, big: bool = False) -> bytes:
    """A TIFF file of one strip, as it stands in the specification."""
    height, width, bands = (*values.shape, 1)[:3]
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    stored = values if planar == 1 else np.moveaxis(values, -1, 0)
    data = stored.astype(values.dtype.newbyteorder(order)).tobytes()
    place, first = ("Q", 16) if big else ("I", 8)
    bits, kinds = (struct.pack(f"{order}{bands}H", *([one] * bands)) for one in (8 * values.itemsize, kind))
    planes = bands if planar == 2 else 1
    starts = struct.pack(f"{order}{planes}I", *(first + len(data) // planes * i for i in range(planes)))
    lengths = struct.pack(f"{order}{planes}I", *([len(data) // planes] * planes))
    short, extra = (lambda n: struct.pack(f"{order}H", n)), max(bands - (3 if photometric == 2 else 1), 0)
    tags = [(256, 3, short(width)), (257, 3, short(height)), (258, 3, bits), (259, 3, short(1))]
    tags += [(262, 3, short(photometric)), (273, 4, starts), (277, 3, short(bands)), (278, 3, short(height))]
    tags += [(279, 4, lengths), (284, 3, short(planar))]
    tags += [(338, 3, struct.pack(f"{order}{extra}H", *[0] * extra))] if extra else []
    tags += [(339, 3, kinds)]
    wide, entry = struct.calcsize(place), struct.calcsize(f"{order}HH{place}{place}")
    end = first + len(data) + (8 if big else 2) + entry * len(tags) + wide
    directory, behind = b"", b""
    for tag, code, body in tags:
        count = len(body) // (2 if code == 3 else 4)
        value = body.ljust(wide, b"\0") if len(body) <= wide else struct.pack(order + place, end + len(behind))
        behind += body if len(body) > wide else b""
        directory += struct.pack(f"{order}HH{place}", tag, code, count) + value
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, first + len(data)) if big else struct.pack(order + "H", 42)
    head += b"" if big else struct.pack(order + "I", first + len(data))
    count = struct.pack(order + ("Q" if big else "H"), len(tags))
    return mark + head + data + count + directory + bytes(wide) + behind


def ink_profile() -> bytes:
    """An ICC profile of CMYK in which black ink alone counts: lightness falls evenly from 100 to 0."""
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    ramp = bytes(range(256))
    corners = b"".join(bytes([0 if corner & 1 else 255, 128, 128]) for corner in range(16))  # K varies fastest
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + corners + ramp * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    header = struct.pack(">I4sI4s4s4s", 144 + len(table), b"test", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)  # the white of D50
    return header.ljust(128, b"\0") + tags + table


def lightness(ink: Pixels) -> Pixels:
    """sRGB greys of CIE lightness 100 * (1 - ink / 255)."""
    level = 100 * (1 - ink / 255)
    light = np.where(level > 8, ((level + 16) / 116) ** 3, level / 903.3)
    shown = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    return np.rint(255 * shown).astype(np.uint8)


def printed(ink: Pixels) -> Pixels:
    """What light four inks let through, with no profile to say more."""
    through = 255 - ink.astype(float)
    return np.rint(through[..., :3] * through[..., 3:] / 255).astype(np.uint8)


INK = np.concatenate([COLOUR, GREY[..., None] // 2], -1)
ALPHA = np.where(X < 9, 0, 255 - 5 * Y).astype(np.uint8)[..., None]
PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)
RGB, OTHER = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera lay on its right side
PHOTO = encoded("JPEG", RGB, quality=95)
AS_STORED = np.asarray(Image.open(io.BytesIO(PHOTO)))  # of a file that no rule but the decoder's touches
PNG = chunk(b"PLTE", PALETTE.tobytes())

CASES: dict[str, tuple[bytes, Pixels]] = {
    "rgb.png": (png(COLOUR, 2), COLOUR),
    "rgb.jpg": (PHOTO, AS_STORED),
    "grey16.png": (png(WIDE, 0), grey(GREY)),
    "rgb16.png": (png((COLOUR.astype(np.uint16) << 8) + 200, 2), COLOUR),
    "la16.png": (png(np.stack([WIDE, WIDE[::-1]], -1), 4), grey(GREY)),
    "grey16.tif": (tiff(WIDE, 1), grey(GREY)),
    "grey16-motorola.tif": (tiff(WIDE, 1, ">"), grey(GREY)),
    "grey16-big.tif": (tiff(WIDE, 1, big=True), grey(GREY)),
    "grey16-white-is-zero.tif": (tiff(WIDE, 0), grey(255 - GREY)),
    "rgb16.tif": (tiff((COLOUR.astype(np.uint16) << 8) + 200, 2), COLOUR),
    "rgb-apart.tif": (tiff(COLOUR, 2, planar=2), COLOUR),
    "float.tif": (tiff((GREY / np.float32(255)).astype(np.float32), 1), grey(GREY)),
    "exif6.jpg": (encoded("JPEG", RGB, quality=95, exif=TURNED), np.rot90(AS_STORED, -1)),
    "exif6.png": (encoded("PNG", RGB, exif=TURNED), np.rot90(COLOUR, -1)),
    "exif6.webp": (encoded("WEBP", RGB, exif=TURNED, lossless=True), np.rot90(COLOUR, -1)),
    "exif6.tif": (encoded("TIFF", RGB, tiffinfo={0x0112: 6}), np.rot90(COLOUR, -1)),
    "exif6-grey16.png": (encoded("PNG", Image.fromarray(WIDE), exif=TURNED), np.rot90(grey(GREY), -1)),
    "exif-damaged.jpg": (encoded("JPEG", RGB, quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), AS_STORED),
    "cmyk.tif": (encoded("TIFF", Image.frombytes("CMYK", (SIDE, SIDE), INK.tobytes())), printed(INK)),
    "cmyk-profile.tif": (
        encoded("TIFF", Image.frombytes("CMYK", (SIDE, SIDE), INK.tobytes()), icc_profile=ink_profile()),
        grey(lightness(INK[..., 3])),
    ),
    "cmyk-foreign-profile.tif": (
        encoded("TIFF", Image.frombytes("CMYK", (SIDE, SIDE), INK.tobytes()), icc_profile=b"no profile" * 20),
        printed(INK),
    ),
    "palette.png": (png(GREY, 3, PNG), PALETTE[GREY]),
    "palette-transparent.png": (png(GREY, 3, PNG, chunk(b"tRNS", bytes(range(0, 250, 2)))), PALETTE[GREY]),
    "la.png": (png(np.concatenate([GREY[..., None], ALPHA], -1), 4), grey(GREY)),
    "rgba.png": (png(np.concatenate([COLOUR, ALPHA], -1), 6), COLOUR),
    "pages.tif": (encoded("TIFF", RGB, save_all=True, append_images=[OTHER]), COLOUR),
    "frames.png": (encoded("PNG", RGB, save_all=True, append_images=[OTHER]), COLOUR),
    "frames.webp": (encoded("WEBP", RGB, save_all=True, append_images=[OTHER], lossless=True), COLOUR),
    "frames.gif": (encoded("GIF", Image.fromarray(GREY), save_all=True, append_images=[OTHER]), grey(GREY)),
}
CLOSE = {"cmyk.tif": 1, "cmyk-foreign-profile.tif": 1, "cmyk-profile.tif": 2}  # grey levels, of two ways to round
ELSEWHERE = ("16", "float", "profile")  # `datasets` clips these, or knows nothing of profiles
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 514, "width": 32, "heads": 2, "layers": 1},
}


def near(found: NDArray[np.generic], wanted: Pixels, name: str) -> None:
    assert found.shape == wanted.shape, name
    assert np.abs(found.astype(int) - wanted).max() <= CLOSE.get(name, 0), name


def chw(values: Pixels) -> Pixels:
    return np.moveaxis(values, -1, 0)


def planned(root: Path, files: dict[str, bytes], **more: object) -> plan.Planned:
    """A plan of these files for one client."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    data = new_recipe.draft(new_recipe.settings(str(root), None, None, ()), "own").recipe
    return pipeline.prepare(
        recipes.from_json(data | {"partition": {"name": "iid", "clients": 1}} | more, "test"), Places(offline=True)
    )


@pytest.fixture(scope="module")
def subset(tmp_path_factory: pytest.TempPathFactory) -> Subset:
    """Every case as a training image."""
    os.environ.setdefault("FEDKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    files = {f"train/{'even' if i % 2 else 'odd'}/{name}": CASES[name][0] for i, name in enumerate(CASES)}
    files |= {f"test/{c}/x{i}.png": png(COLOUR + i, 2) for i, c in enumerate(("even", "odd"))}
    done = pipeline.build(
        planned(tmp_path_factory.mktemp("pixels") / "own", files), tmp_path_factory.mktemp("built") / "x"
    )
    return fedrsic_data.open(done.path).subset("own")


def shown(subset: Subset) -> list[str]:
    """The cases in the order of the client's rows."""
    return [image["path"] for image in subset.client(subset.clients[0]).read("train", ["image"])["image"].to_pylist()]


def test_training_sees_the_picture(subset: Subset) -> None:
    names = shown(subset)
    assert sorted(names) == sorted(CASES)
    for (image, _), name in zip(ImageDataset(subset.client(subset.clients[0]), "train"), names, strict=True):
        assert image.dtype == torch.uint8
        near(image.numpy(), chw(CASES[name][1]), name)


def test_albums_hold_the_picture() -> None:
    found = decoded([data for data, _ in CASES.values()], list(CASES), "own", SIDE)
    for image, (name, (_, wanted)) in zip(found.numpy(), CASES.items(), strict=True):
        near(image, chw(wanted), name)


def test_features_are_of_the_picture(subset: Subset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def spy(_: Clip, pictures: torch.Tensor, **_how: bool) -> torch.Tensor:
        seen.append(pictures)
        return torch.ones(len(pictures), 24)

    monkeypatch.setattr(Clip, "encode_images", spy)
    features.features(frozen("small", CONFIG, tiny.Tokenizer([], 12), 0, {}, "cpu"), subset, "train")
    for image, name in zip(torch.cat(seen).numpy(), shown(subset), strict=True):
        near(image, chw(CASES[name][1]), name)


def test_datasets_shows_the_same(subset: Subset) -> None:
    for row, name in zip(subset.client(subset.clients[0]).dataset("train"), shown(subset), strict=True):
        picture = np.asarray(row["image"].convert("RGB"))
        if not any(word in name for word in ELSEWHERE):
            near(picture, CASES[name][1], name)
        if "exif" in name:
            turns = [np.rot90(CASES[name][1], k) for k in range(4)]
            assert np.argmin([np.abs(picture.astype(int) - turn).mean() for turn in turns]) == 0, name


def test_reports_show_the_same() -> None:
    for name, (data, wanted) in CASES.items():
        small = np.asarray(Image.open(io.BytesIO(images.thumbnail(data, name, 84))), int)
        turns = [np.abs(small - np.rot90(wanted, k)).mean() for k in range(4)]
        assert np.argmin(turns) == 0, name
        assert turns[0] < 12 if "palette" not in name else turns[0] < 60, name  # noise makes a poor JPEG


def test_pictures_are_compared_as_they_are_seen() -> None:
    for name, (data, wanted) in CASES.items():
        for one, other in zip(
            duplicates._look(data), duplicates._look(png(np.ascontiguousarray(wanted), 2)), strict=True
        ):
            assert np.abs(one.astype(int) - other).max() <= CLOSE.get(name, 0), name


def test_the_check_of_a_build_decodes_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise AssertionError("was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fails)
    for name, (data, _) in CASES.items():
        if not name.endswith((".webp", ".gif")) and name != "float.tif":
            assert images.check(data, name) == (SIDE, SIDE)


def joined() -> bytes:
    """A JPEG file that was cut, and a whole one behind it."""
    return PHOTO[:-100] + PHOTO


def many_scans() -> bytes:
    slow = encoded("JPEG", RGB, progressive=True)
    scan = slow.rindex(b"\xff\xda")
    return slow[:scan] + slow[scan:-2] * 600 + slow[-2:]


MB = 2**20
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "13 bands": (lambda: tiff(np.zeros((8, 8, 13), np.uint16), 1), "a TIFF of 13 bands of 16-bit whole numbers"),
    "13 bands, big": (lambda: tiff(np.zeros((8, 8, 13), np.uint16), 1, big=True), "a TIFF of 13 bands of 16-bit"),
    "2 bands": (lambda: tiff(np.zeros((8, 8, 2), np.float32), 1), "a TIFF of 2 bands of 32-bit floats"),
    "float64": (lambda: tiff(np.zeros((8, 8)), 1), "a TIFF of 1 band of 64-bit floats"),
    "int32": (lambda: tiff(np.zeros((8, 8), np.int32), 1), "an image of mode I cannot"),
    "int16": (lambda: tiff(np.zeros((8, 8), np.int16), 1), "an image of mode I cannot"),
    "rgb16 apart": (lambda: tiff(np.zeros((8, 8, 3), np.uint16), 2, planar=2), "3 bands of 16 bits, stored apart"),
    "floats": (lambda: tiff(GREY.astype(np.float32), 1), "floats from 0 to 217 cannot"),
    "nan": (lambda: tiff(np.full((8, 8), np.nan, np.float32), 1), "floats from nan to nan cannot"),
    "169 megapixels": (lambda: huge(13_000), "13,000 x 13,000 pixels is over the limit of 89,478,485"),
    "900 megapixels": (lambda: huge(30_000), "30,000 x 30,000 pixels is over the limit of 89,478,485"),
    "joined": (joined, "another image begins"),
    "scans": (many_scans, "over 500 scans"),
    "ztxt": (lambda: png(GREY, 0, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100 * MB)))), "its note zTXt unpacks"),
    "itxt": (
        lambda: png(GREY, 0, chunk(b"iTXt", b"k\0\1\0en\0k\0" + zlib.compress(bytes(100 * MB)))),
        "its note iTXt unpacks",
    ),
    "iccp": (lambda: png(GREY, 0, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(100 * MB)))), "its note iCCP unpacks"),
    "notes": (
        lambda: png(GREY, 0, *[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(MB)))] * 65),
        "its notes are over 67,108,864 bytes",
    ),
    "empty": (lambda: b"", "the file is empty"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of JPEG, PNG"),
    "truncated": (lambda: PHOTO[:-100], "truncated: no end marker"),
    "eps": (lambda: encoded("EPS", RGB), "not an image of JPEG, PNG"),
}


def huge(side: int) -> bytes:
    """A PNG file that says it has this width and height."""
    small = bytearray(png(np.zeros((1, 1), np.uint8), 0))
    small[16:24] = struct.pack(">II", side, side)
    small[29:33] = struct.pack(">I", zlib.crc32(small[12:29]))
    return bytes(small)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_picture_is_refused_in_one_line_wherever_it_is_met(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    make, words = REFUSED[name]
    data = make()
    with pytest.raises(BadImageError) as told:
        images.check(data, "x.png")
    reason = str(told.value)
    assert reason.startswith("x.png: ")
    assert words in reason
    assert "--on-bad-image skip" in reason
    if name not in ("floats", "nan"):  # the rest is seen without a decoder
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("was decoded"))
    for look in (lambda: picture(data, "own", "own/x"), lambda: decoded([data], ["own/x"], "own", 8)):
        with pytest.raises(BadImageError) as told:
            look()
        line = str(told.value)
        assert line.startswith("own: image own/x: ")
        assert words in line
        assert "verify" not in line
        assert " at 0x" not in line
        assert "\n" not in line
    duplicates._look(data)
    assert not ran.exists()


def test_the_decoder_prints_nothing_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(REFUSED["13 bands"][0]())
    code = """if True:
        import sys
        from pathlib import Path
        from fedrsic_data.dataset import images
        try:
            images.check(Path(sys.argv[1]).read_bytes(), "x")
        except images.BadImageError:
            print("refused")
    """  # outside of pytest, which listens to what is logged
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.tif")], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n", "")


def test_a_picture_behind_a_whole_one_is_no_damage() -> None:
    for data in (PHOTO + PHOTO, encoded("JPEG", RGB, progressive=True) + PHOTO):
        assert images.check(data, "x.jpg") == (SIDE, SIDE)
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(PHOTO) + 2) + PHOTO  # cameras put one before the picture
    assert images.check(PHOTO[:2] + thumbnail + PHOTO[2:], "x.jpg") == (SIDE, SIDE)


def test_a_build_refuses_what_training_could_not_read(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": png(COLOUR + 9 * i + len(c), 2) for i in range(5) for c in ("cat", "bird")}
    files["cat/13.tif"] = tiff(np.zeros((8, 8, 13), np.uint16), 1)
    with pytest.raises(
        BadImageError, match="13.tif: a TIFF of 13 bands of 16-bit whole numbers cannot be given as RGB"
    ):
        pipeline.build(planned(tmp_path / "own", files), tmp_path / "out")
    done = pipeline.build(planned(tmp_path / "own", files, on_bad_image="skip"), tmp_path / "out")
    (skipped,) = done.manifest.subsets["own"].skipped
    assert skipped.reason == "a TIFF of 13 bands of 16-bit whole numbers cannot be given as RGB"


def test_a_build_in_which_every_image_was_skipped_fails(tmp_path: Path) -> None:
    files = {f"{c}/{i}.tif": tiff(np.full((8, 8), i, np.int32), 1) for i in range(5) for c in ("cat", "bird")}
    with pytest.raises(
        SourceError, match="own: all 10 images were skipped, e.g. own/.*: an image of mode I cannot be given as RGB"
    ):
        pipeline.build(planned(tmp_path / "own", files, on_bad_image="skip"), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def strip(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), np.uint8))


@pytest.mark.parametrize("size", [(2, 30_000), (30_000, 2), (1, 60_001)])
def test_a_strip_is_not_enlarged_whole(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    enlarge, most = functional.interpolate, 0

    def counted(*given: object, **more: object) -> torch.Tensor:
        nonlocal most
        found = enlarge(*given, **more)
        most = max(most, found.numel())
        return found

    monkeypatch.setattr(functional, "interpolate", counted)
    found = fit(strip(*size), load("tiny").preprocessing)
    side = load("tiny").preprocessing.size
    assert found.shape == (3, side, side)
    assert most <= 3 * side * side * 18


@pytest.mark.parametrize("size", [(4, 200), (5, 201), (200, 4), (64, 1100)])
def test_a_strip_without_its_ends_has_the_same_middle(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    how = load("tiny").preprocessing
    cut = fit(strip(*size), how)
    monkeypatch.setattr("fedtrain.models.clip._LONGEST", 10_000)
    assert (cut.int() - fit(strip(*size), how)).abs().max() <= 1


def test_channels_may_be_resized_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    how = load("tiny").preprocessing
    whole = fit(strip(90, 130), how)
    monkeypatch.setattr("fedtrain.models.clip._LARGE", 0)
    assert torch.equal(whole, fit(strip(90, 130), how))
