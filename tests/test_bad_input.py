"""Everything that can be wrong with what people give: one line that names it, exit code 1 or 2, nothing left behind."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import io
import json
import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from conftest import ROOT, contents, fedkit, sampled, tiny_image, write_ucmerced
from PIL import Image

from fedrsic_data import recipes
from fedrsic_data.build import pipeline, shards, workspace
from fedrsic_data.build.verify import verify
from fedrsic_data.errors import OutputError
from fedrsic_data.files.cache import cache_folder
from fedrsic_data.raw import download
from fedrsic_data.raw.download import RemoteFile
from fedrsic_data.sources import SOURCES, mirror, vocabulary
from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.locate import Places

Done = subprocess.CompletedProcess
Command = Callable[..., "Done[str]"]

SAMPLE = ["build", "fed-rsic", "--sample", "--subset", "fed-ucmerced"]
SAMPLE += ["--set", "sample.per_class=2", "--set", "sample.size=32", "--clients", "2"]
CLASSES = vocabulary.native("ucmerced")


@pytest.fixture(scope="module")
def cli() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fedkit_cli", ROOT / "cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.app = typer.main.get_command(module.app)  # or it is made anew for every command
    return module


@pytest.fixture
def command(cli: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command without a process of its own."""
    monkeypatch.setenv("FEDKIT_DEBUG", "0")
    monkeypatch.setattr(download, "_sleep", lambda _: None)

    def run(*arguments: object) -> Done[str]:
        words = [str(a) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["fedkit", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        code = stopped.value.code
        return Done(words, code if isinstance(code, int) else int(code is not None), out, err)

    return run


def refused(done: Done[str], *words: object, codes: tuple[int, ...] = (1, 2)) -> str:
    """One line that says all of ``words``, and is not the line for what nobody thought of."""
    errors = [line for line in done.stderr.splitlines() if not line.endswith(" ...")]
    assert done.returncode in codes, done.stderr[-2000:] or "it succeeded"
    assert len(errors) == 1, done.stderr[-2000:]
    assert errors[0].startswith("error: ")
    assert "unexpected" not in errors[0], errors[0][:500]
    assert "this is a bug" not in errors[0]
    assert len(errors[0]) < 2000, "an error is a line, not a page"
    for word in words:
        assert str(word) in errors[0], errors[0]
    return errors[0]


def nothing(out: Path) -> None:
    """Neither the dataset nor a half of it."""
    assert not os.path.lexists(out)
    assert not [p.name for p in out.parent.glob(f"{out.name}.*")] if out.parent.exists() else True


def small_source(root: Path, suffix: str = ".tif") -> Path:
    """Two images of each class of UC Merced."""
    return write_ucmerced(root, suffix, per_class=2)


def from_source(source: Path, out: Path, *more: object) -> list[object]:
    """The build of ``small_source``."""
    given = ["--source", f"ucmerced={source}", "--subset", "fed-ucmerced", "--offline"]
    return ["build", "fed-rsic", *given, "--clients", 2, "--out", out, *more]


# Sources


def test_a_missing_source_folder_is_named(command, tmp_path):
    out = tmp_path / "out"
    build_it = ["build", "fed-rsic", "--subset", "fed-ucmerced", "--offline", "--out", out]
    refused(command(*build_it, "--sources", tmp_path / "none"), tmp_path / "none", "does not exist")
    refused(command(*build_it, "--source", f"ucmerced={tmp_path / 'none'}"), tmp_path / "none", "does not exist")
    refused(command(*build_it), "ucmerced", "--source ucmerced=PATH")
    nothing(out)


@pytest.mark.parametrize("inside", ["", "UCMerced_LandUse", "UCMerced_LandUse/Images", "UCMerced_LandUse/Images/beach"])
def test_an_empty_source_folder_is_named(command, tmp_path, inside):
    folder = tmp_path / "sources"
    (folder / inside).mkdir(parents=True)
    out = tmp_path / "out"
    done = command("build", "fed-rsic", "--subset", "fed-ucmerced", "--sources", folder, "--offline", "--out", out)
    refused(done, folder, "ucmerced", codes=(1,))
    nothing(out)


def test_a_class_folder_too_many_or_too_few(command, tmp_path):
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    images = source / "UCMerced_LandUse/Images"
    (images / "volcano").mkdir()
    refused(command(*from_source(source, out, "--allow-partial")), "volcano", images, codes=(1,))
    (images / "volcano").rmdir()
    (images / "Beach").mkdir()
    refused(command(*from_source(source, out, "--allow-partial")), "two folders", "beach", codes=(1,))
    (images / "Beach").rmdir()
    shutil.rmtree(images / "beach")
    refused(command(*from_source(source, out)), "beach", "--allow-partial", codes=(1,))
    nothing(out)


def test_two_files_for_one_image(command, tmp_path):
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    (source / "UCMerced_LandUse/Images/beach/beach00.png").write_bytes(tiny_image(5, ".png"))
    refused(command(*from_source(source, out, "--allow-partial")), "beach00.tif", "beach00.png", codes=(1,))
    nothing(out)


@pytest.mark.parametrize("link", ["beach", "UCMerced_LandUse/Images/volcano", "UCMerced_LandUse/Images/beach/x.tif"])
def test_links_that_lead_nowhere_or_in_circles(command, tmp_path, link):
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    place = source / link
    place.symlink_to(place.name)
    done = command(*from_source(source, out, "--allow-partial"))
    if done.returncode:
        refused(done, codes=(1,))
        nothing(out)
    place.unlink()
    place.symlink_to(place.parent)
    done = command(*from_source(source, out, "--allow-partial", "--overwrite"))
    if done.returncode:
        refused(done, codes=(1,))


@pytest.mark.skipif(os.name == "nt", reason="has no pipes with names")
def test_pipes_named_like_images_are_not_read(command, tmp_path):
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    os.mkfifo(source / "UCMerced_LandUse/Images/beach/pipe.tif")
    assert command(*from_source(source, out, "--allow-partial")).returncode == 0
    assert "beach/pipe.tif" in (out / "manifest.json").read_text()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("place", ["", "UCMerced_LandUse", "UCMerced_LandUse/Images", "UCMerced_LandUse/Images/beach"])
def test_folders_that_may_not_be_read(command, tmp_path, place):
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    (source / place).chmod(0)
    try:
        refused(command(*from_source(source, out, "--allow-partial")), source / place, codes=(1,))
    finally:
        (source / place).chmod(0o755)
    nothing(out)


def test_a_folder_that_cannot_be_read_is_named(command, tmp_path, monkeypatch):
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    closed, scandir = str(source / "UCMerced_LandUse/Images"), os.scandir

    def refuse(path: Any = ".") -> Any:
        if str(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    done = command(*from_source(source, out, "--allow-partial"))
    monkeypatch.undo()
    refused(done, closed, codes=(1,))
    nothing(out)


def test_file_names_that_are_no_utf8(command, tmp_path):
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    odd = os.fsencode(source / "UCMerced_LandUse/Images/beach") + b"/beach\xff.tif"
    try:
        Path(os.fsdecode(odd)).write_bytes(tiny_image(9, ".tif"))
    except OSError:
        pytest.skip("this file system takes no such names")
    refused(command(*from_source(source, out, "--allow-partial")), "beach", codes=(1,))
    nothing(out)


# Images


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
def test_damaged_images_stop_the_build_or_are_listed(command, tmp_path, name):
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
def test_libraries_keep_quiet_about_damaged_images(tmp_path, name):
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    place = source / "UCMerced_LandUse/Images/beach" / name
    place.write_bytes(DAMAGED[name])
    refused(fedkit(*from_source(source, out, "--allow-partial")), place, codes=(1,))


@pytest.mark.parametrize("name", ["half-with-end.jpg", "blanked-with-end.jpg"])
def test_an_image_cut_in_the_middle_but_ended_is_found(command, tmp_path, name):
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


def test_nothing_but_damaged_images(command, tmp_path):
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    for file in source.rglob("*.tif"):
        file.write_bytes(b"x")
    done = command(*from_source(source, out, "--allow-partial", "--on-bad-image", "skip"))
    if done.returncode:
        refused(done, codes=(1,))
        nothing(out)
    else:
        assert verify(out)[1] == []


def test_a_client_with_nothing_but_damaged_images(command, tmp_path):
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


# Archives and mirrors


def zipped(path: Path, *more: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for c, name in enumerate(CLASSES):
            for i in range(2):
                archive.writestr(f"UCMerced_LandUse/Images/{name}/{name}{i:02d}.tif", tiny_image(c * 9 + i, ".tif"))
        for member, data in more:
            archive.writestr(member, data)
    return path


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "member",
    ["../x.tif", "UCMerced_LandUse/../../x.tif", "/tmp/x.tif", "C:\\x.tif", "..\\x.tif", link("beach/x.tif")],
    ids=["parent", "deep", "absolute", "drive", "backslash", "link"],
)
def test_a_zip_with_a_member_that_would_land_outside(command, tmp_path, member):
    path, out = zipped(tmp_path / "ucmerced.zip", (member, b"/etc/passwd")), tmp_path / "out"
    name = member if isinstance(member, str) else member.filename
    refused(command(*from_source(path, out, "--allow-partial")), path, name.rpartition("\\")[2], codes=(1,))
    nothing(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ucmerced.zip"]


def test_a_zip_bomb(command, tmp_path):
    bomb = ("UCMerced_LandUse/Images/beach/beach99.tif", bytes(60 * 2**20))
    path, out = zipped(tmp_path / "ucmerced.zip", bomb, method=zipfile.ZIP_DEFLATED), tmp_path / "out"
    assert path.stat().st_size < 2**19
    refused(command(*from_source(path, out, "--allow-partial")), path, "beach99.tif", codes=(1,))
    nothing(out)


@pytest.mark.parametrize("damage", ["empty", "text", "half", "nested", "flip"])
def test_a_damaged_zip(command, tmp_path, damage):
    path, out = zipped(tmp_path / "ucmerced.zip"), tmp_path / "out"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[data.index(b"II*\0") + 60] ^= 255  # in the first member
    new = {"empty": b"", "text": b"hello", "half": bytes(data[: len(data) // 2]), "flip": bytes(data)}
    if damage == "nested":
        path.rename(tmp_path / "inner.zip")
        with zipfile.ZipFile(path, "w") as outer:
            outer.write(tmp_path / "inner.zip", "ucmerced.zip")
    else:
        path.write_bytes(new[damage])
    refused(command(*from_source(path, out, "--allow-partial")), path, codes=(1,))
    nothing(out)


def mirrored(path: Path, *, names: Any = CLASSES, label: Any = None, image: Any = None) -> Path:
    """A Parquet mirror of two images a class."""
    rows = [(c, i) for c in range(len(CLASSES)) for i in range(2)]
    pictures = [{"bytes": tiny_image(c * 9 + i, ".tif"), "path": f"{CLASSES[c]}{i:02d}.tif"} for c, i in rows]
    table = pa.table(
        {
            "image": pa.array(pictures) if image is None else image,
            "label": pa.array([c for c, _ in rows], pa.int64()) if label is None else label,
        }
    )
    features = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path, compression="snappy")
    return path


def test_a_good_mirror_is_read(command, tmp_path):
    path = mirrored(tmp_path / "m" / "train.parquet")
    assert command(*from_source(path, tmp_path / "out", "--allow-partial")).returncode == 0


@pytest.mark.parametrize(
    "how",
    [
        {"image": pa.array([{"foo": 1}] * 42)},
        {"image": pa.array([{"bytes": b"x"}] * 42)},
        {"image": pa.array(["x"] * 42)},
        {"image": pa.array([{"bytes": 5, "path": 5}] * 42)},
        {"image": pa.nulls(42, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))},
        {"label": pa.array([99] * 42)},
        {"label": pa.array([-1] * 42)},
        {"label": pa.nulls(42, pa.int64())},
        {"label": pa.array(["beach"] * 42)},
        {"names": None},
        {"names": 5},
        {"names": ["volcano"] * 21},
    ],
    ids=lambda how: f"{next(iter(how))}-{str(next(iter(how.values())))[:20].split()[0]}",
)
def test_a_mirror_with_other_columns_or_labels(command, tmp_path, how):
    path, out = mirrored(tmp_path / "m" / "train.parquet", **how), tmp_path / "out"
    refused(command(*from_source(path, out, "--allow-partial")), path, codes=(1,))
    nothing(out)


@pytest.mark.parametrize("damage", ["empty", "text", "half", "labels"])
def test_a_damaged_mirror(command, tmp_path, damage):
    path, out = mirrored(tmp_path / "m" / "train.parquet"), tmp_path / "out"
    data = bytearray(path.read_bytes())
    if damage == "labels":
        column = pq.read_metadata(path).row_group(0).column(2)
        start = column.dictionary_page_offset or column.data_page_offset
        data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes({"empty": b"", "text": b"hello", "half": data[: len(data) // 2], "labels": data}[damage])
    refused(command(*from_source(path, out, "--allow-partial")), path, codes=(1,))
    nothing(out)


# Downloads


class Site(BaseHTTPRequestHandler):
    """Serves one file; breaks off the first answers as often as the server says."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        body: bytes = self.server.body  # type: ignore[attr-defined]
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.asked.append(start)  # type: ignore[attr-defined]
        self.send_response(206 if start else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        breaks = self.server.breaks  # type: ignore[attr-defined]
        self.wfile.write(body[start:][: breaks.pop(0) if breaks else None])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Puts a server on this machine in the place of UC Merced's."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(**facts: Any) -> Any:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
        body = zipped(tmp_path / "served.zip").read_bytes()
        server.body, server.breaks, server.asked = body, [], []  # type: ignore[attr-defined]
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        remote = RemoteFile(f"http://127.0.0.1:{server.server_port}/ucmerced.zip", "UCMerced_LandUse.zip", **facts)
        known: Facts = SOURCES["ucmerced"].facts
        mine = replace(SOURCES["ucmerced"], facts=replace(known, downloads=(remote,)))  # type: ignore[type-var]
        monkeypatch.setitem(SOURCES, "ucmerced", mine)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def downloading(out: Path) -> list[object]:
    return ["build", "fed-rsic", "--subset", "fed-ucmerced", "--allow-partial", "--clients", 2, "--out", out]


def test_a_download_that_breaks_midway_is_resumed(command, site, tmp_path):
    server = site()
    server.breaks = [len(server.body) // 3]
    assert command(*downloading(tmp_path / "out")).returncode == 0
    assert server.asked[0] == 0
    assert len(server.asked) == 2
    assert server.asked[1] > 0
    cached = cache_folder() / "sources/ucmerced"
    assert (cached / "UCMerced_LandUse.zip").read_bytes() == server.body
    assert not list(cached.glob("*.part*"))


def test_a_download_that_never_comes_is_one_line_and_resumed_by_the_next(command, site, tmp_path):
    server, out = site(), tmp_path / "out"
    server.breaks = [len(server.body) // 3] + [0] * 20
    refused(command(*downloading(out)), "ucmerced", "--source NAME=PATH", codes=(1,))
    nothing(out)
    server.breaks, server.asked = [], []
    assert command(*downloading(out)).returncode == 0
    assert server.asked[0] > 0


@pytest.mark.parametrize("facts", [{"sha256": "0" * 64}, {"size": 5}, {"md5": "0" * 32}], ids=["sha256", "size", "md5"])
def test_a_download_that_is_not_what_was_published(command, site, tmp_path, facts):
    site(**facts)
    out = tmp_path / "out"
    refused(command(*downloading(out)), "UCMerced_LandUse.zip", codes=(1,))
    nothing(out)
    assert not list((cache_folder() / "sources/ucmerced").glob("*.zip"))


def test_a_cached_archive_that_has_changed_since(command, site, tmp_path):
    site()
    assert command(*downloading(tmp_path / "one")).returncode == 0
    cached = cache_folder() / "sources/ucmerced/UCMerced_LandUse.zip"
    cached.write_bytes(zipped(tmp_path / "other.zip", ("beach/new.tif", b"x")).read_bytes())
    refused(command(*downloading(tmp_path / "two")), cached, codes=(1,))
    nothing(tmp_path / "two")


def test_no_network(command, site, tmp_path):
    server, out = site(), tmp_path / "out"
    server.shutdown()
    server.server_close()
    refused(command(*downloading(out)), "check the network", codes=(1,))
    nothing(out)


def test_no_hub(command, tmp_path, monkeypatch):
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto the host")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    out = tmp_path / "out"
    refused(command("build", "fed-rsic", "--subset", "fed-optimal", "--out", out), "optimal31", "--source", codes=(1,))
    nothing(out)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 5}'])
def test_damaged_records_of_the_hub(command, tmp_path, text):
    record = cache_folder() / "sources/optimal31/revisions.json"
    record.parent.mkdir(parents=True)
    record.write_text(text)
    done = command("build", "fed-rsic", "--subset", "fed-optimal", "--offline", "--out", tmp_path / "out")
    refused(done, codes=(1,))


def test_a_cache_that_cannot_be_written(command, site, tmp_path, monkeypatch):
    site()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDKIT_CACHE", str(tmp_path / "file"))
    refused(command(*downloading(tmp_path / "out")), tmp_path / "file", codes=(1,))
    monkeypatch.setattr(mirror, "_resolve", lambda *_: "0" * 40)
    monkeypatch.setattr(mirror, "_download", lambda _repo, _commit, folder: folder.mkdir(parents=True))
    done = command("build", "fed-rsic", "--subset", "fed-optimal", "--out", tmp_path / "out")
    refused(done, tmp_path / "file", codes=(1,))
    nothing(tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("ucmerced", "NAME=PATH"),
        ("=x", "NAME=PATH"),
        ("ucmerced=", "NAME=PATH"),
        ("ucmercd=x", "unknown source"),
        ("ucmerced=hf://", "hf://USER/DATASET"),
        ("ucmerced=hf://a/b/c/d", "hf://USER/DATASET"),
        ("ucmerced=~nobody-of-this-name/x", "nobody-of-this-name"),
        ("ucmerced=" + "n" * 300, "nnn"),
        ("ucmerced=/dev/null", "/dev/null"),
    ],
)
def test_source_options(command, tmp_path, given, word):
    out = tmp_path / "out"
    build_it = ["build", "fed-rsic", "--subset", "fed-ucmerced", "--offline", "--source", given, "--out", out]
    refused(command(*build_it), word)
    nothing(out)


# Options and recipes


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--alpha", "0"], "alpha"),
        (["--alpha", "-1"], "alpha"),
        (["--alpha", "nan"], "alpha"),
        (["--alpha", "inf"], "alpha"),
        (["--alpha", "1e-320"], "alpha"),
        (["--alpha", "1e-320", "--partition", "skew"], "alpha"),
        (["--alpha", "1e308", "--partition", "skew"], "alpha"),
        (["--alpha", "1e-320", "--partition", "dirichlet-client"], "alpha"),
        (["--alpha", "text"], "alpha"),
        (["--alpha", ""], "alpha"),
        (["--set", "alpha=NaN"], "alpha"),
        (["--set", "alpha=true"], "alpha"),
        (["--set", "alpha=1" + "0" * 400], "alpha"),
        (["--clients", "0"], "clients"),
        (["--clients", "-3"], "clients"),
        (["--clients", "2.5"], "clients"),
        (["--clients", "43"], "clients=43"),
        (["--clients", "43", "--partition", "iid"], "clients=43"),
        (["--clients", "22", "--partition", "pathological"], "clients=22"),
        (["--set", "min_size=22"], "min_size"),
        (["--set", "min_size=-1"], "min_size"),
        (["--set", "min_size=1" + "0" * 30], "min_size"),
        (["--seed", "-1"], "seed"),
        (["--seed", "1.5"], "seed"),
        (["--set", "seed=1.0"], "seed"),
        (["--set", "seed=null"], "seed"),
        (["--set", "allow_partial=yes"], "allow_partial"),
        (["--set", "on_bad_image=ignore"], "ignore"),
        (["--on-bad-image", "ignore"], "ignore"),
        (["--on-bad-image", ""], "on"),
        (["--subset", "fed-nothing"], "fed-nothing"),
        (["--subset", ""], "subset"),
        (["--subset", "../fed-ucmerced"], "../fed-ucmerced"),
        (["--partition", "nothing"], "nothing"),
        (["--partition", ""], "partition"),
        (["--set", "alpha"], "key=value"),
        (["--set", "=1"], "key=value"),
        (["--set", ""], "key=value"),
        (["--set", "alpah=1"], "alpah"),
        (["--set", "."], "key=value"),
        (["--set", ".=1"], "unknown key"),
        (["--set", "layout..files=client"], "unknown key"),
        (["--set", "layout.file=client"], "file"),
        (["--set", "layout.files=zip"], "files"),
        (["--set", "layout.row_group_bytes=0"], "row_group_bytes"),
        (["--set", "layout.row_group_bytes=1" + "0" * 30], "row_group_bytes"),
        (["--set", "layout=5"], "layout"),
        (["--set", "partition=5"], "partition"),
        (["--set", "partition={}"], "partition"),
        (["--set", "partition.name=[1]"], "partition"),
        (["--set", "partition.name={}"], "partition"),
        (["--set", "name=../x"], "../x"),
        (["--set", "name=.."], ".."),
        (["--set", "name=5"], "name"),
        (["--set", "fedkit=2"], "fedkit"),
        (["--set", "fedkit=0"], "fedkit"),
        (["--set", "splits.test=1"], "test"),
        (["--set", "splits.test=NaN"], "test"),
        (["--set", "splits.train=0.1"], "train"),
        (["--set", 'splits={"../x": 0.1}'], "../x"),
        (["--set", "splits." + "n" * 300 + "=0.1"], "nnn"),
        (["--set", "subsets={}"], "subsets"),
        (["--set", "subsets=[]"], "subsets"),
        (["--set", "subsets.fed-ucmerced=5"], "fed-ucmerced"),
        (["--set", "subsets.fed-ucmerced.sources=[]"], "sources"),
        (["--set", "subsets.fed-ucmerced.sources=ucmerced"], "sources"),
        (["--set", 'subsets.fed-ucmerced.sources=["ucmerced","ucmerced"]'], "sources"),
        (["--set", 'subsets.fed-ucmerced.sources=["mars"]'], "mars"),
        (["--set", "subsets.fed-ucmerced.partition=5"], "partition"),
        (["--set", 'subsets={"a/b":{"sources":["ucmerced"]}}'], "a/b"),
        (["--set", 'subsets={"..":{"sources":["ucmerced"]}}'], ".."),
        (["--set", 'subsets={"":{"sources":["ucmerced"]}}'], "name"),
        (["--set", 'subsets={"manifest.json":{"sources":["ucmerced"]}}'], "manifest.json"),
        (["--set", 'subsets={"plan.parquet":{"sources":["ucmerced"]}}'], "plan.parquet"),
        (["--set", 'subsets={"clients.parquet":{"sources":["ucmerced"]}}'], "clients.parquet"),
        (["--set", 'subsets={"README.md":{"sources":["ucmerced"]}}'], "README.md"),
        (["--set", "sample.size=31"], "size"),
        (["--set", "sample.per_class=0"], "per_class"),
        (["--set", "sample.seed=-1"], "seed"),
        (["--set", 'title="a\\ud800b"'], "title"),
        (["--set", "title=5"], "title"),
        (["--set", "x=" + "[" * 100_000], "x"),
        (["--nothing"], "--nothing"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_values_that_cannot_be_used(command, tmp_path, options, word):
    out = tmp_path / "out"
    refused(command(*SAMPLE, "--out", out, *options), word, codes=(2,))
    nothing(out)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited otherwise elsewhere")
@pytest.mark.parametrize(
    "options",
    [
        ["--clients", "1000000000"],
        ["--clients", "1" + "0" * 30],
        ["--partition", "iid", "--clients", "1000000000"],
        ["--partition", "pathological", "--clients", "1000000000", "--set", "classes_per_client=2"],
    ],
    ids=lambda options: " ".join(options)[:40],
)
def test_far_more_clients_than_images_cost_no_memory(tmp_path, options):
    out = tmp_path / "out"
    room = lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # noqa: E731
    done = in_process(*SAMPLE, *options, "--out", out, preexec_fn=room)
    refused(done, "clients", codes=(2,))
    nothing(out)


def in_process(*arguments: object, **how: Any) -> Done[str]:
    """As ``conftest.fedkit``, with a say in how the process is made."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | how
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FEDKIT_DEBUG": "0", **how.pop("env", {})}
    words = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    return subprocess.run(words, text=True, env=env, timeout=120, check=False, **how)


def written(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def plain_recipe(**more: Any) -> dict[str, Any]:
    data = {"fedkit": 1, "name": "mine", "subsets": {"one": {"sources": ["ucmerced"]}}}
    sample = {"sample": {"per_class": 2, "size": 32}, "partition": {"name": "iid", "clients": 2}}
    return data | sample | more


def test_a_plain_recipe_is_built(command, tmp_path):
    path = written(tmp_path / "r.json", plain_recipe())
    assert command("build", path, "--out", tmp_path / "out").returncode == 0


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"sede": 1}, "sede"),
        ({"subsets": {"one": {"sources": ["ucmerced"], "titel": ""}}}, "titel"),
        ({"partition": {"name": "iid", "alpha": 1}}, "alpha"),
        ({"subsets": {"one": {"sources": ["ucmerced"], "partition": {"name": "iid", "x": 1}}}}, "x"),
        ({"layout": {"file": "auto"}}, "file"),
        ({"sample": {"per_clas": 1}}, "per_clas"),
        ({"fedkit": 2}, "newer"),
        ({"fedkit": "1"}, "fedkit"),
        ({"fedkit": True}, "fedkit"),
        ({"fedkit": 1.0}, "fedkit"),
        ({"seed": 1.0}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed"),
        ({"allow_partial": "true"}, "allow_partial"),
        ({"allow_partial": 1}, "allow_partial"),
        ({"subsets": {}}, "subsets"),
        ({"subsets": []}, "subsets"),
        ({"subsets": None}, "subsets"),
        ({"subsets": "one"}, "subsets"),
        ({"subsets": {"one": None}}, "one"),
        ({"subsets": {"a\nb": {"sources": ["ucmerced"]}}}, "name"),
        ({"subsets": {"a\0b": {"sources": ["ucmerced"]}}}, "name"),
        ({"partition": "iid"}, "partition"),
        ({"partition": ["iid"]}, "partition"),
        ({"partition": None}, "partition"),
        ({"splits": [0.2]}, "splits"),
        ({"splits": {"test": "0.2"}}, "test"),
        ({"splits": {"a": 0.5, "b": 0.5}}, "splits"),
        ({"name": "a" * 97}, "name"),
        ({"name": None}, "name"),
        ({"title": "x" * 10 + "\ud800"}, "title"),
        ({"recipe": {"fedkit": 2, **{k: v for k, v in plain_recipe().items() if k != "fedkit"}}}, "newer"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_recipes_with_odd_values(command, tmp_path, more, word):
    path, out = written(tmp_path / "r.json", plain_recipe(**more)), tmp_path / "out"
    refused(command("build", path, "--out", out), word)
    nothing(out)
    changes = (["--subset", "one"], ["--partition", "iid"], ["--alpha", 1])
    for options in changes if {"subsets", "partition"} & {*more} else ():
        done = command("build", path, "--out", out, *options)  # may replace what is wrong
        assert "unexpected" not in done.stderr, done.stderr
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0" * 999,
        b"null",
        b"5",
        b"[]",
        b"{",
        b'{"fedkit": 1',
        b"NaN",
        b"[" * 200_000,
        b'{"fedkit": 1, "a": ' + b"[" * 200_000,
        b'{"fedkit": 1' + b"0" * 9000 + b"}",
        b"\xff\xfe{\0}\0",
        b"\xff" * 9,
        b'{"fedkit": 1, "fedkit": 1, "seed": 1, "seed": 2}',
        b"<html>",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_files_that_are_no_recipe(command, tmp_path, data):
    path, out = tmp_path / "r.json", tmp_path / "out"
    path.write_bytes(data)
    refused(command("build", path, "--out", out), path)
    refused(command("verify", path), path)
    refused(command("inspect", path), path)
    nothing(out)


def test_a_recipe_that_says_a_thing_twice(command, tmp_path):
    text = json.dumps(plain_recipe())[:-1] + ', "seed": 1, "seed": 2}'
    refused(command("build", written(tmp_path / "r.json", text), "--out", tmp_path / "out"), "seed")


def test_a_recipe_with_a_byte_order_mark(command, tmp_path):
    path, out = tmp_path / "r.json", tmp_path / "out"
    path.write_text(json.dumps(plain_recipe()), "utf-8-sig")
    done = command("build", path, "--out", out)
    if done.returncode:
        refused(done, path, "BOM")
        nothing(out)


def test_a_deep_value_in_a_recipe(command, tmp_path):
    text = json.dumps(plain_recipe())[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}"
    refused(command("build", written(tmp_path / "r.json", text), "--out", tmp_path / "out"), "x")


@pytest.mark.parametrize("name", ["none.json", "", ".", "fed-rsicc", "n" * 300, "/dev/null", "a\nb"])
def test_recipes_that_are_not_there(command, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    refused(command("build", name, "--out", tmp_path / "out"), name[:20].split("\n")[0])
    nothing(tmp_path / "out")


def test_a_folder_given_as_a_recipe(command, tmp_path):
    refused(command("build", tmp_path, "--out", tmp_path / "out"), tmp_path)


# Output


def output(command: Command, out: object) -> Done[str]:
    return command(*SAMPLE, "--out", out)


@pytest.mark.parametrize("kind", ["file", "full", "foreign", "incomplete-file", "incomplete-foreign", "parent-file"])
def test_something_in_the_way(command, tmp_path, kind):
    out = tmp_path / "in" / "out"
    aside = out.with_name("out.incomplete")
    out.parent.mkdir()
    if kind == "file":
        out.write_text("mine")
    elif kind == "foreign":
        out.mkdir()
        (out / "mine").write_text("mine")
    elif kind == "incomplete-file":
        aside.write_text("mine")
    elif kind == "incomplete-foreign":
        aside.mkdir()
        (aside / "mine").write_text("mine")
    elif kind == "parent-file":
        (tmp_path / "in" / "f").write_text("mine")
        out = tmp_path / "in" / "f" / "out"
    else:
        out = Path("/dev/full")
    before = contents(tmp_path / "in")
    refused(output(command, out), out, "--out" if "incomplete" not in kind else "", codes=(1,))
    refused(command(*SAMPLE, "--overwrite", "--out", out), out, codes=(1,))
    assert {k: v for k, v in contents(tmp_path / "in").items() if not k.endswith(".lock")} == before


@pytest.mark.parametrize("out", ["/", "/proc/fedkit", "/dev/null/out", "/dev/full"])
def test_places_that_cannot_be_written(command, out):
    if not Path(out).parent.exists():
        pytest.skip("not on this system")
    refused(output(command, out), out.rstrip("/"), codes=(1,))


def test_an_output_without_a_name(command, tmp_path, monkeypatch):
    place = tmp_path / "empty"
    place.mkdir()
    monkeypatch.chdir(place)
    stands = place.stat().st_ino
    done = output(command, "")
    if done.returncode:
        refused(done, "--out")
    assert place.stat().st_ino == stands, "the folder a person stands in was taken away"
    monkeypatch.chdir(tmp_path)


def test_the_folder_one_stands_in_stays(command, tmp_path, monkeypatch):
    place = tmp_path / "empty"
    place.mkdir()
    monkeypatch.chdir(place)
    done = output(command, ".")
    if done.returncode:
        refused(done, codes=(1, 2))
    else:
        assert Path("manifest.json").exists(), "whoever stands in the folder does not see what was built"
    assert os.listdir(tmp_path) == ["empty"]


@pytest.mark.parametrize("kind", ["folder", "full", "nowhere", "circle", "in-circle", "file"])
def test_links_as_output(command, tmp_path, kind):
    place, target = tmp_path / "in", tmp_path / "target"
    place.mkdir()
    out = place / "out"
    if kind in ("folder", "full"):
        target.mkdir()
    if kind in ("full", "file"):
        (target / "mine" if kind == "full" else target).write_text("mine")
    out.symlink_to(out if "circle" in kind else target)
    done = output(command, out / "deeper" if kind == "in-circle" else out)
    if kind == "folder" and done.returncode == 0:
        assert out.is_symlink()
        assert verify(out)[1] == []
    else:
        refused(done, out, codes=(1,))
        assert out.is_symlink()
    assert os.listdir(place) == ["out"]


@pytest.mark.parametrize("name", ["n" * 300, "n" * 250, "a/" * 2000 + "b"], ids=["300", "250", "deep"])
def test_names_that_are_too_long(command, tmp_path, name):
    done = output(command, tmp_path / "in" / name)
    assert done.returncode == 1
    assert "unexpected" not in done.stderr, done.stderr[-99:]
    assert done.stderr.count("error: ") == 1
    assert not list(tmp_path.glob("in/n*"))


@pytest.mark.parametrize(
    "name", ["Grüße 世界", "two words", "a'b\"c", "[red]x[/red]", "x[/y]", "a\nb", "-x", "trailing/"]
)
def test_odd_names_work(command, tmp_path, name):
    out = tmp_path / name
    assert command(*SAMPLE, f"--out={tmp_path}/{name}").returncode == 0
    assert verify(out)[1] == []
    done = command("verify", out)
    assert done.returncode == 0
    assert name.rstrip("/").replace("\n", "\\n") in done.stdout.replace("\n", "")
    assert sorted(os.listdir(out.parent)) == [out.name]


def test_names_that_are_no_utf8(tmp_path):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/x\xff")
    try:
        Path(out).mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *SAMPLE, "--out", out],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FEDKIT_DEBUG": "0"},
        check=False,
    )
    assert b"unexpected" not in done.stderr, done.stderr
    assert not Path(out + ".incomplete").exists()


def test_an_output_inside_its_own_source(command, tmp_path):
    source = small_source(tmp_path / "src")
    before = contents(source)
    for out in (source / "UCMerced_LandUse/Images/out", source / "UCMerced_LandUse/Images/beach/out"):
        done = command(*from_source(source, out, "--allow-partial"))
        if done.returncode == 0:  # then the source must still be one
            assert command(*from_source(source, out, "--allow-partial")).returncode == 0
            shutil.rmtree(out)
        else:
            refused(done, out)
            nothing(out)
    assert contents(source) == before


@pytest.mark.skipif(sys.platform != "linux", reason="file sizes are limited otherwise elsewhere")
def test_a_file_that_may_not_grow(tmp_path):
    out = tmp_path / "out"
    least = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # noqa: E731
    refused(in_process(*SAMPLE, "--out", out, preexec_fn=least), out, codes=(1,))
    assert not out.exists()
    assert in_process(*SAMPLE, "--out", out).returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_full_disk_is_one_line_and_resumed(command, tmp_path, monkeypatch):
    out, room = tmp_path / "out", [30_000]
    write = shards.HashingFile.write

    def full(self: shards.HashingFile, data: bytes) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(shards.HashingFile, "write", full)
    refused(output(command, out), out, "disk is full", codes=(1,))
    assert not out.exists()
    room[0] = 1 << 40
    assert output(command, out).returncode == 0
    assert contents(out) == contents(sampled(tmp_path / "ref", "sample.per_class=2", "clients=2").path)
    assert not out.with_name("out.incomplete").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of its own, where that is allowed."""
    places = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        mounting = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(mounting, capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("size", ["8k", "60k", "120k"])
def test_a_disk_that_is_really_full(command, tmp_path, small_disk, size):
    disk = small_disk(f"size={size}")
    out = disk / "out"
    refused(output(command, out), out, "disk is full", codes=(1,))
    assert not out.exists()
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    assert output(command, out).returncode == 0
    assert os.listdir(disk) == ["out"]
    assert contents(out) == contents(sampled(tmp_path / "ref", "sample.per_class=2", "clients=2").path)


def test_a_disk_that_is_read_only(command, small_disk):
    out = small_disk("ro") / "out"
    refused(output(command, out), out, "--out", codes=(1,))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(command, tmp_path):
    place = tmp_path / "closed"
    place.mkdir(mode=0o555)
    refused(output(command, place / "out"), place, "--out", codes=(1,))


# Manifests

OUTSIDE = ["../x.parquet", "/etc/passwd", "a/../../x", "..\\x", "C:\\x", "\\\\host\\x", "x\0y", "", "..", "link/x"]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("entry", ["shard", "plan", "card"])
def test_manifest_paths_that_leave_the_folder(command, dataset, path, entry):
    (dataset / "link").symlink_to(dataset.parent)
    file = dataset / "manifest.json"
    data = json.loads(file.read_text())
    where = data["subsets"]["fed-ucmerced"]["shards"][0] if entry == "shard" else data[entry]
    where["path"] = path
    written(file, data)
    for name in ("verify", "inspect"):
        refused(command(name, dataset), file, codes=(1,))


@pytest.mark.parametrize("path", ["n" * 300, "a/" * 3000, "\ud800", ".", "fed-ucmerced", "a\nb"], ids=range(6))
def test_manifest_paths_that_are_no_files(command, dataset, path):
    file = dataset / "manifest.json"
    data = json.loads(file.read_text())
    data["subsets"]["fed-ucmerced"]["shards"][0]["path"] = path
    written(file, data)
    done = command("verify", dataset)
    assert done.returncode == 1
    assert "unexpected" not in done.stderr, done.stderr[:500]


def resealed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A manifest that was edited by someone who knows how to make its digests hold."""
    data = json.loads((folder / "manifest.json").read_text())
    for entry in [data["plan"], data["clients"], data["card"], *data["subsets"]["fed-ucmerced"]["shards"]]:
        entry["sha256"] = workspace.file_digest(folder / entry["path"])
        entry["bytes"] = (folder / entry["path"]).stat().st_size
    change(data)
    del data["digest"]
    body = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    written(folder / "manifest.json", {**data, "digest": hashlib.sha256(body.encode()).hexdigest()})


@pytest.mark.parametrize("name", ["plan.parquet", "clients.parquet", "shard"])
@pytest.mark.parametrize("what", [b"", b"hello", b"PAR1" + bytes(99) + b"PAR1"], ids=["empty", "text", "hollow"])
def test_files_that_are_no_parquet_in_a_manifest_that_agrees(command, dataset, name, what):
    shard = next((dataset / "fed-ucmerced/train").glob("*.parquet"))
    path = shard if name == "shard" else dataset / name
    path.write_bytes(what)
    resealed(dataset, lambda _: None)
    done = command("verify", dataset)
    assert done.returncode == 1
    assert "unexpected" not in done.stderr, done.stderr[:500]
    assert path.name in done.stdout + done.stderr
    done = command("inspect", dataset)
    if done.returncode:
        refused(done, codes=(1,))


def changed(*path: object, to: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        here: Any = data["subsets"]["fed-ucmerced"]
        for step in path[:-1]:
            here = here[step]
        here[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("classes", to=[]),
        changed("classes", to=["one"]),
        changed("classes", to=["same"] * 99),
        changed("multi_label", to=True),
        changed("clients", to=-5),
        changed("rows", to={}),
        changed("rows", to={"train": -1}),
        changed("shards", to=[]),
        changed("skew", to={}),
        changed("skew", to={"x": {}}),
        changed("shards", 0, "split", to="nothing"),
        changed("shards", 0, "rows", to=10**40),
    ],
    ids=range(12),
)
def test_manifests_that_agree_with_themselves_and_lie(command, dataset, change):
    resealed(dataset, change)
    done = command("verify", dataset)
    assert done.returncode == 1
    assert "unexpected" not in done.stderr, done.stderr[:500]
    done = command("inspect", dataset)
    assert "unexpected" not in done.stderr, done.stderr[:500]


@pytest.mark.parametrize("name", ["none", "n" * 300, ""])
def test_datasets_that_are_not_there(command, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for verb in ("verify", "inspect"):
        refused(command(verb, name), name[:9])


# The terminal, the process, others


def piped(arguments: str, redirect: str, cwd: Path, **env: str) -> Done[str]:
    """As a shell runs it."""
    line = f"{sys.executable} {ROOT / 'cli.py'} {arguments} {redirect}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FEDKIT_DEBUG": "0", **env}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, cwd=cwd, env=env, check=False
    )


@pytest.mark.parametrize("arguments", ["list", "list --json", "verify --json ."])
def test_a_reader_that_goes_away(sample_build, arguments):
    done = piped(arguments, "| true", sample_build)
    assert done.stderr == ""
    assert done.returncode in (0, 1)
    assert piped(arguments, "| head -1", sample_build).stderr == ""


@pytest.mark.parametrize("arguments", ["list", "verify ."])
def test_a_closed_standard_output(sample_build, arguments):
    done = piped(arguments, ">&-", sample_build)
    if done.returncode or done.stderr:
        refused(done)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", ["list", "list --json"])
def test_a_full_standard_output(sample_build, arguments):
    refused(piped(arguments, "> /dev/full", sample_build), codes=(1,))


def test_a_closed_standard_error(tmp_path):
    done = piped(" ".join(SAMPLE) + " --json --out out", "2>&-", tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)
    assert verify(tmp_path / "out")[1] == []
    done = piped("verify nothing", "2>&-", tmp_path)
    assert done.returncode in (1, 2)
    assert done.stdout == "", "errors do not belong on the standard output"


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"TERM": "dumb", "NO_COLOR": "1"}])
def test_terminals_that_know_few_letters(sample_build, env):
    done = piped("inspect .", "", sample_build, **env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_folder_that_is_gone(tmp_path):
    (tmp_path / "gone").mkdir()
    cli = f"{sys.executable} {ROOT / 'cli.py'}"
    line = f"cd gone && rmdir ../gone && {cli} {' '.join(SAMPLE)}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FEDKIT_DEBUG": "0"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    refused(done, codes=(1, 2))


def test_nobody_is_at_home(command, tmp_path, monkeypatch):
    def homeless(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FEDKIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert output(command, tmp_path / "out").returncode == 0, "a sample needs no cache"
    refused(command("build", "fed-rsic", "--subset", "fed-ucmerced", "--out", tmp_path / "two"), "FEDKIT_CACHE")


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def long_build(out: Path) -> subprocess.Popen[str]:
    more = ["--set", "sample.per_class=400", "--set", "sample.size=64", "--set", "clients=50", "--out", str(out)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FEDKIT_DEBUG": "0"}
    words = [sys.executable, str(ROOT / "cli.py"), *SAMPLE, *more]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (a shell's background jobs ignore it)
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=env, preexec_fn=heard)


def test_control_c_in_the_middle(tmp_path):
    out = tmp_path / "out"
    child = long_build(out)
    until(lambda: list(tmp_path.glob("out.incomplete/**/*.parquet")))
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    errors = [line for line in errors.splitlines() if not line.endswith(" ...")]
    assert errors == ["error: interrupted; run the same command to resume"]
    assert child.returncode == 130
    assert not out.exists()
    assert out.with_name("out.incomplete").exists()


def test_two_builds_of_one_output_at_once(command, tmp_path):
    out = tmp_path / "out"
    child = long_build(out)
    try:
        until(lambda: list(tmp_path.glob("out.incomplete/**/*.parquet")))
        child.send_signal(signal.SIGSTOP)
        refused(output(command, out), out, "another", codes=(1,))
    finally:
        child.send_signal(signal.SIGCONT)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)


def test_a_build_that_begins_while_another_ends(tmp_path, monkeypatch):
    sets = ("sample.per_class=2", "clients=2")
    reference = contents(sampled(tmp_path / "ref", *sets).path)
    out, move, second = tmp_path / "in" / "out", os.replace, []

    def moving(source: Any, target: Any) -> None:
        if Path(target) == out and not second:
            second.append(None)
            try:
                sampled(out, *sets)
            except OutputError as error:
                second[0] = str(error)
        move(source, target)

    monkeypatch.setattr(workspace.os, "replace", moving)
    sampled(out, *sets)
    assert second
    assert second[0] is None or "another" in second[0]
    assert contents(out) == reference
    assert os.listdir(out.parent) == ["out"]


def test_two_builds_that_mend_one_dataset_at_once(tmp_path, dataset):
    reference = contents(dataset)
    for shard in (dataset / "fed-ucmerced").rglob("*.parquet"):
        shard.write_bytes(b"")
    data = recipes.override(
        recipes.load("fed-rsic"), subsets=["fed-ucmerced"], sample=True, sets=["sample.per_class=6", "sample.size=32"]
    )
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    failures: list[BaseException] = []

    def mend() -> None:
        try:
            pipeline.build(planned, dataset)
        except OutputError:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=mend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert contents(dataset) == reference


def test_helpers_are_honest(tmp_path):
    """The checks above must be able to fail."""
    with pytest.raises(AssertionError):
        refused(fedkit("list"))
    (tmp_path / "out.incomplete").mkdir()
    with pytest.raises(AssertionError):
        nothing(tmp_path / "out")
