"""Archives built byte by byte, honest and hostile."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fedrsic_data.errors import SourceError, UnsafeArchiveError
from fedrsic_data.raw import archives
from fedrsic_data.raw.archives import Limits, TarReader, ZipReader

HOSTILE_NAMES = ["../x", "a/../../x", "/etc/x", "C:\\x", "c:x", "..\\x", "a\\..\\..\\x", "\\\\h\\x", "\n", "a\x7f"]
KB = bytes(range(256)) * 4
READERS = {  # of files by their suffix here
    ".zip": [ZipReader],
    ".tar": [TarReader],
    ".tgz": [lambda *given: list(archives.targz_files(*given)), lambda *given: list(archives.targz_names(*given))],
}
TARS = [".tar", ".tgz"]


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def entry(name: str, data: bytes = KB, *, method: int = 8, **lies: Any) -> dict[str, Any]:
    """One zip member; ``lies`` replace what its headers say: size, crc, flags, mode, at, raw, system."""
    packed = lies.pop("packed", deflated(data) if method == 8 else data)
    facts = {"size": len(data), "crc": zlib.crc32(data), "flags": 0x800, "mode": 0o100644, "at": None}
    return {"name": name.encode(), "packed": packed, "method": method, **facts, **lies}


def make_zip(path: Path, *entries: dict[str, Any]) -> Path:
    body, central = b"", b""
    for e in entries:
        at = len(body) if e["at"] is None else e["at"]
        sizes = e["crc"], len(e["packed"]), e["size"], len(e["name"]), 0
        common = struct.pack("<HHHHHLLLHH", 20, e["flags"], e["method"], 0, 33, *sizes)
        if e["at"] is None:
            body += b"PK\3\4" + common + e["name"] + e["packed"]
        tail = struct.pack("<HHHLL", 0, 0, 0, e["mode"] << 16, at)
        central += b"PK\1\2" + struct.pack("<H", 0x314) + common + tail + e["name"]
    count = len(entries)
    end = struct.pack("<HHHHLLH", 0, 0, count, count, len(central), len(body), 0)
    path.write_bytes(body + central + b"PK\5\6" + end)
    return path


def packed_as(path: Path, data: bytes) -> Path:
    """Write what a tar holds, gzipped if its suffix says so."""
    path.write_bytes(gzip.compress(data) if path.suffix == ".tgz" else data)
    return path


def make_tar(path: Path, *members: tuple[str, bytes | None, dict[str, Any]]) -> Path:
    """A tar of (name, data or None for a folder, changes to its header), gzipped if its suffix says so."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data, changes in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data or b""))
    return packed_as(path, buffer.getvalue())


def unsafe(
    path: Path,
    match: str,
    limits: archives.Limits = archives.DEFAULT_LIMITS,
    kind: type[Exception] = UnsafeArchiveError,
) -> None:
    """The archive is refused in one line that names it, by all that reads its kind."""
    for reader in READERS[path.suffix]:
        with pytest.raises(kind, match=match) as caught:
            reader(path, limits)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


# Zip archives.


def test_zip_names_and_bytes(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "a.zip",
        entry("d/", b"", method=0, mode=0o40755),
        entry("d/ü.jpg"),
        entry("./d//two.jpg", b"2", method=0),
        entry("win\\x.jpg", b"", method=8, packed=b""),
        entry("__MACOSX/d/._ü.jpg"),
        entry("d/.DS_Store"),
        entry("big", KB * 3000, method=0),
    )
    with ZipReader(path) as reader:
        assert reader.names == ["d/ü.jpg", "d/two.jpg", "win/x.jpg", "big"]
        assert [reader.read(name) for name in reader.names] == [KB, b"2", b"", KB * 3000]
        with pytest.raises(SourceError, match=r"a\.zip: has no member 'nope'"):
            reader.read("nope")
    with pytest.raises(SourceError):
        reader.read("big")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_agrees_with_zipfile(tmp_path: Path, method: Any) -> None:
    contents = {f"{i % 7}/{i}.bin": os.urandom(i * 997) + b"x" * (i * 40_000) for i in range(60)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.comment = b"a comment"
        for name, data in contents.items():
            archive.writestr(name, data)
    with ZipReader(tmp_path / "a.zip") as reader:
        assert {name: reader.read(name) for name in reader.names} == contents


def test_zip_streamed_and_prefixed_archives_are_read(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> None:
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # sizes follow the data
        archive.writestr("a", KB)
        archive.writestr("b", KB[::-1])
    (tmp_path / "a.zip").write_bytes(b"#!/bin/sh\n" + pipe.getvalue())
    with ZipReader(tmp_path / "a.zip") as reader:
        assert [reader.read(name) for name in reader.names] == [KB, KB[::-1]]


def test_zip_listed_in_another_order_and_small_but_dense(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", KB)
        archive.writestr("b", bytes(1 << 20))  # a thousandfold, and harmless
        archive.filelist.reverse()
    with ZipReader(tmp_path / "a.zip") as reader:
        assert reader.names == ["b", "a"]
        assert [reader.read(name) for name in reader.names] == [bytes(1 << 20), KB]


def test_zip_threads_read_the_same(tmp_path: Path) -> None:
    contents = {f"{i}": os.urandom(20_000) for i in range(200)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    with ZipReader(tmp_path / "a.zip") as reader, ThreadPoolExecutor(8) as pool:
        names = reader.names * 5
        assert all(data == contents[name] for name, data in zip(names, pool.map(reader.read, names), strict=True))


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, "a\0b"])
def test_zip_hostile_names(tmp_path: Path, name: Any) -> None:
    path = make_zip(tmp_path / "a.zip", entry("good"), entry(name))
    unsafe(path, r"member '.*' (has|leaves)")


@pytest.mark.parametrize("name", ["..x", "x..", "a..b/c", "...", "ab:c"])
def test_zip_odd_but_harmless_names(tmp_path: Path, name: str) -> None:
    with ZipReader(make_zip(tmp_path / "a.zip", entry(name))) as reader:
        assert reader.read(name) == KB


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("x", mode=stat.S_IFLNK | 0o777)], "member 'x' is a link"),
        ([entry("x", mode=stat.S_IFCHR | 0o644)], "member 'x' is a link or a device"),
        ([entry("x", mode=stat.S_IFIFO | 0o644)], "member 'x' is a link or a device"),
        ([entry("x", flags=1)], "member 'x' is encrypted"),
        ([entry("x"), entry("x", b"other")], "member 'x' is listed twice"),
        ([entry("a/x"), entry("a\\x", b"other")], "listed twice"),
        ([entry("./x"), entry("x", b"other")], "member 'x' is listed twice"),
        ([entry("x"), entry("x/y")], "member 'x' is both a file and a folder"),
        ([entry("x"), entry("y", at=0)], "overlaps"),
        ([entry("x"), entry("y", at=5)], "overlaps"),
        ([entry("."), entry("y")], "has no name"),
        ([entry("x", bytes(2 << 20))], "member 'x' inflates more than 200 times"),
        ([entry("x", b"", size=65 << 20)], "member 'x' has 68,157,440 bytes"),
    ],
)
def test_zip_attacks(tmp_path: Path, entries: list[Any], reason: str) -> None:
    unsafe(make_zip(tmp_path / "a.zip", *entries), reason)


def test_zip_quoted_overlap_bomb(tmp_path: Path) -> None:
    """Each member's deflate data swallows the next one's local header."""
    kernel = entry("kernel", bytes(50_000))
    inner = make_zip(tmp_path / "inner", kernel).read_bytes()
    inner = inner[: inner.index(b"PK\1\2")]
    quote = struct.pack("<BHH", 0, 36, 36 ^ 0xFFFF)  # a stored block of the length of that header
    outer = entry("outer", b"", packed=quote + inner, size=50_036)
    path = make_zip(tmp_path / "a.zip", outer, kernel | {"at": 30 + 5 + len(quote)})
    unsafe(path, "member 'outer' overlaps")


def test_zip_local_header_reaching_into_the_next_member(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", entry("x"), entry("y"))
    damaged = bytearray(path.read_bytes())
    damaged[28:30] = b"\x10\0"  # an extra field that is not there
    path.write_bytes(damaged)
    unsafe_late(path, "x", UnsafeArchiveError, "overlaps")


def unsafe_late(path: Path, name: str, kind: type[Exception], match: str) -> None:
    with ZipReader(path) as reader, pytest.raises(kind, match=match) as caught:
        reader.read(name)
    assert str(caught.value).startswith(f"{path}: member {name!r} ")


@pytest.mark.parametrize(
    ("lies", "kind", "match"),
    [
        ({"size": 10, "crc": zlib.crc32(KB[:10])}, UnsafeArchiveError, "more than the 10 bytes declared"),
        ({"size": 10, "crc": zlib.crc32(KB[:10]), "method": 0}, UnsafeArchiveError, "more than the 10"),
        ({"size": 5000}, SourceError, "length or checksum"),
        ({"size": 5000, "method": 0}, SourceError, "length or checksum"),
        ({"crc": 0}, SourceError, "length or checksum"),
        ({"crc": 0, "method": 0}, SourceError, "length or checksum"),
        ({"packed": deflated(KB)[:-3]}, SourceError, "ends too early"),
        ({"packed": b"\xff" * 40}, SourceError, "damaged"),
    ],
)
def test_zip_lies_are_found_on_reading(tmp_path: Path, lies: dict[str, Any], kind: Any, match: str) -> None:
    unsafe_late(make_zip(tmp_path / "a.zip", entry("x", **lies)), "x", kind, match)


def test_zip_a_lying_bomb_inflates_one_block_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte behind a declared 10 bytes costs no more memory than one block."""
    made = []
    inflated = archives._inflated
    monkeypatch.setattr(archives, "_inflated", lambda packed: (made.append(len(b)) or b for b in inflated(packed)))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    path = make_zip(tmp_path / "a.zip", entry("x", b"0123456789", packed=packed))
    unsafe_late(path, "x", UnsafeArchiveError, "more than the 10 bytes declared")
    assert len(made) == 1
    assert made[0] <= 1 << 20


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        (Limits(max_members=2), "member 'c' is one more than the 2 allowed"),
        (Limits(max_member_bytes=1023), "member 'a' has 1,024 bytes, over 1,023"),
        (Limits(max_total_bytes=3000), "member 'c' brings the total over 3,000"),
    ],
)
def test_limits(tmp_path: Path, limits: Any, match: str) -> None:
    unsafe(make_zip(tmp_path / "a.zip", *map(entry, "abc")), match, limits)
    for suffix in TARS:
        unsafe(make_tar(tmp_path / f"a{suffix}", *((name, KB, {}) for name in "abc")), match, limits)


@pytest.mark.parametrize("keep", [0, 3, 100, 1000, -1, -30])
def test_truncated_archives(tmp_path: Path, keep: int) -> None:
    whole = make_zip(tmp_path / "a.zip", entry("x", os.urandom(5000)), entry("y")).read_bytes()
    path = tmp_path / "cut.zip"
    path.write_bytes(whole[:keep])
    unsafe(path, "damaged, cut short or no such archive .*; download it again", kind=SourceError)


@pytest.mark.parametrize("suffix", READERS)
def test_other_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    unsafe(path, "cannot be read .No such file", kind=SourceError)
    for content in (b"\x89PNG" + bytes(600), b"<html>" * 200):
        path.write_bytes(content)
        unsafe(path, "damaged, cut short or no such archive", kind=SourceError)
    path.write_bytes(gzip.compress(b"no tar" * 300))
    unsafe(path, "is compressed" if suffix == ".tar" else "damaged, cut short or no such archive", kind=SourceError)


def test_zip_other_methods(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", entry("x", method=12))
    unsafe(path, "member 'x' has method 12; repack", kind=SourceError)


# Tar archives.


def test_gzipped_tar_names_and_bytes(tmp_path: Path) -> None:
    long, noise = "n" * 150 + "/" + "m" * 150, os.urandom(3 << 20)
    members = [("y", noise, {}), ("./", None, {}), ("./d", None, {}), ("./d/x", KB, {"mode": 0o6777})]
    members += [(long, b"1", {}), ("__MACOSX/x", b"", {}), ("d/.DS_Store", b"", {}), ("none", b"", {})]
    path = make_tar(tmp_path / "a.tgz", *members)
    expected = {"y": noise, "d/x": KB, long: b"1", "none": b""}
    assert list(archives.targz_files(path)) == list(expected.items())
    assert list(archives.targz_names(path)) == list(expected)


@pytest.mark.parametrize("suffix", TARS)
@pytest.mark.parametrize(
    ("member", "reason"),
    [
        *(((name, b"", {}), "has|leaves") for name in HOSTILE_NAMES),
        (("b\udce9", b"", {}), "undecodable"),
        (("x", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}), "member 'x' is a link"),
        (("x", b"", {"type": tarfile.LNKTYPE, "linkname": "good"}), "member 'x' is a link"),
        (("x", b"", {"type": tarfile.CHRTYPE}), "member 'x' is a link, a device"),
        (("x", b"", {"type": tarfile.FIFOTYPE}), "member 'x' is a link, a device"),
        (("x", b"", {"type": tarfile.GNUTYPE_SPARSE}), "member 'x' is a link, a device or sparse"),
        (("good", b"2", {}), "member 'good' is listed twice"),
        (("good/x", b"2", {}), "member 'good' is both"),
    ],
)
def test_tar_attacks(tmp_path: Path, member: Any, reason: Any, suffix: str) -> None:
    unsafe(make_tar(tmp_path / f"a{suffix}", ("good", KB, {}), member), reason)


@pytest.mark.parametrize("suffix", TARS)
def test_tar_sparse_by_extended_header(tmp_path: Path, suffix: str) -> None:
    """A file that is regular by its type: only the header before it says that it is sparse."""
    info = tarfile.TarInfo("x")
    info.pax_headers = {"GNU.sparse.map": "0,512", "GNU.sparse.size": "1024"}
    unsafe(packed_as(tmp_path / f"a{suffix}", info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)), "member 'x' is .*sparse")


@pytest.mark.parametrize("suffix", TARS)
@pytest.mark.parametrize("keep", [0, 700, 1536, 2000, 3072])
def test_tar_truncated(tmp_path: Path, keep: int, suffix: str) -> None:
    """Cut in a header, in the data, and between two members, where ``tarfile`` sees no fault."""
    whole = make_tar(tmp_path / "a.tar", ("x", KB, {}), ("y", KB, {})).read_bytes()
    unsafe(packed_as(tmp_path / f"cut{suffix}", whole[:keep]), "damaged, cut short", kind=SourceError)


@pytest.mark.parametrize("suffix", TARS)
def test_tar_damaged_header(tmp_path: Path, suffix: str) -> None:
    damaged = bytearray(make_tar(tmp_path / "a.tar", ("x", KB, {}), ("y", KB, {})).read_bytes())
    damaged[1540] ^= 1  # the second header's name: tarfile would stop there in silence
    unsafe(packed_as(tmp_path / f"b{suffix}", bytes(damaged)), "damaged", kind=SourceError)


def test_gzip_damage(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tgz", ("x", os.urandom(4000), {}))
    packed = bytearray(path.read_bytes())
    packed[-6] ^= 1  # the checksum at the very end
    path.write_bytes(packed)
    unsafe(path, "incorrect data check", kind=SourceError)
    path.write_bytes(packed[:-9])
    unsafe(path, "ends too early", kind=SourceError)


def test_gzip_bombs(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tgz", *((f"{i}", bytes(1 << 20), {}) for i in range(8)))
    unsafe(path, "expands like a decompression bomb")
    whole = make_tar(tmp_path / "a.tar", ("x", KB, {})).read_bytes()
    unsafe(packed_as(path, whole + bytes(8 << 20)), "expands like a decompression bomb")


@pytest.mark.parametrize("suffix", TARS)
def test_tar_header_bombs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    head = tarfile.TarInfo("././@LongLink")
    for size in (1 << 33, -1024):
        head.type, head.size = tarfile.GNUTYPE_LONGNAME, size
        unsafe(packed_as(path, head.tobuf(tarfile.GNU_FORMAT) + bytes(2048)), "oversized header")
    back = tarfile.TarInfo("x")
    back.size = -1024
    unsafe(packed_as(path, back.tobuf(tarfile.GNU_FORMAT) + bytes(2048)), "points backwards|damaged", kind=SourceError)


def test_tar_reader_agrees_with_tarfile(tmp_path: Path) -> None:
    contents = {f"{i % 5}/{'n' * 120}{i}.bin": os.urandom(i * 997) for i in range(40)} | {"big": KB * 3000, "none": b""}
    litter = [("__MACOSX/x", KB, {}), ("d/.DS_Store", KB, {}), ("d", None, {})]
    path = make_tar(tmp_path / "a.tar", *((name, data, {}) for name, data in contents.items()), *litter)
    with TarReader(path) as reader:
        assert reader.names == list(contents)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(reader.read, reader.names * 3)) == list(contents.values()) * 3
        assert max(map(len, reader.blocks("big"))) == 1 << 20
        with pytest.raises(SourceError, match=r"a\.tar: has no member 'nope'"):
            reader.read("nope")
    with pytest.raises(SourceError):
        reader.read("big")


def test_tar_reader_notices_that_the_file_was_cut(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", ("x", KB, {}), ("y", KB, {}))
    with TarReader(path) as reader:
        os.truncate(path, 1000)
        with pytest.raises(SourceError, match="member 'x'.*too early"):
            reader.read("x")


def test_json_may_be_larger_than_images(tmp_path: Path) -> None:
    limits = Limits(max_member_bytes=10, max_json_bytes=2000)
    path = make_zip(tmp_path / "a.zip", entry("a/b.JSON"), entry("c", b"small"))
    with ZipReader(path, limits) as reader:
        assert reader.read("a/b.JSON") == KB
    for bad in (entry("b.json", KB * 2), entry("json")):
        with pytest.raises(UnsafeArchiveError, match="over"):
            ZipReader(make_zip(path, bad), limits)


def test_json_in_a_gzipped_tar_is_held_in_memory_and_bounded_like_images(tmp_path: Path) -> None:
    limits = Limits(max_member_bytes=1023, max_json_bytes=2000)
    path = make_tar(tmp_path / "a.tgz", ("b.json", KB, {}))
    with pytest.raises(UnsafeArchiveError, match=r"member 'b\.json' has 1,024 bytes, over 1,023"):
        list(archives.targz_files(path, limits))
    assert list(archives.targz_names(path, limits)) == ["b.json"]  # which holds none of it
