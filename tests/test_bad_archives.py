"""Archives and Parquet mirrors that are damaged or hostile: one line that names the file, nothing left behind."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Command, refused, tiny_image
from small_builds import CLASSES, from_source, nothing, zipped


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
def test_a_zip_with_a_member_that_would_land_outside(
    command: Command, tmp_path: Path, member: str | zipfile.ZipInfo
) -> None:
    path, out = zipped(tmp_path / "ucmerced.zip", (member, b"/etc/passwd")), tmp_path / "out"
    name = member if isinstance(member, str) else member.filename
    refused(command(*from_source(path, out, "--allow-partial")), path, name.rpartition("\\")[2], codes=(1,))
    nothing(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ucmerced.zip"]


def test_a_zip_bomb(command: Command, tmp_path: Path) -> None:
    bomb = ("UCMerced_LandUse/Images/beach/beach99.tif", bytes(60 * 2**20))
    path, out = zipped(tmp_path / "ucmerced.zip", bomb, method=zipfile.ZIP_DEFLATED), tmp_path / "out"
    assert path.stat().st_size < 2**19
    refused(command(*from_source(path, out, "--allow-partial")), path, "beach99.tif", codes=(1,))
    nothing(out)


@pytest.mark.parametrize("damage", ["empty", "text", "half", "nested", "flip"])
def test_a_damaged_zip(command: Command, tmp_path: Path, damage: str) -> None:
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


def small_mirror(path: Path, *, names: Any = CLASSES, label: Any = None, image: Any = None) -> Path:
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


def test_a_good_mirror_is_read(command: Command, tmp_path: Path) -> None:
    path = small_mirror(tmp_path / "m" / "train.parquet")
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
def test_a_mirror_with_other_columns_or_labels(command: Command, tmp_path: Path, how: dict[str, Any]) -> None:
    path, out = small_mirror(tmp_path / "m" / "train.parquet", **how), tmp_path / "out"
    refused(command(*from_source(path, out, "--allow-partial")), path, codes=(1,))
    nothing(out)


@pytest.mark.parametrize("damage", ["empty", "text", "half", "labels"])
def test_a_damaged_mirror(command: Command, tmp_path: Path, damage: str) -> None:
    path, out = small_mirror(tmp_path / "m" / "train.parquet"), tmp_path / "out"
    data = bytearray(path.read_bytes())
    if damage == "labels":
        column = pq.read_metadata(path).row_group(0).column(2)
        start = column.dictionary_page_offset or column.data_page_offset
        data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes({"empty": b"", "text": b"hello", "half": data[: len(data) // 2], "labels": data}[damage])
    refused(command(*from_source(path, out, "--allow-partial")), path, codes=(1,))
    nothing(out)
