"""Containers of image bytes: several at once."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from fedrsic_data.errors import SourceError
from fedrsic_data.raw.archives import ZipReader
from fedrsic_data.raw.containers import ArchiveContainer, FolderContainer, LayeredContainer


def test_each_layer_is_asked_once_and_answers_come_in_the_order_of_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode() * 3)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("b", b"B")
        archive.writestr("d", b"DD")
    packed = ArchiveContainer(tmp_path / "more.zip", ZipReader(tmp_path / "more.zip"))
    both = LayeredContainer([FolderContainer(tmp_path), packed])
    asked: list[list[str]] = []
    read = FolderContainer.read

    def counted(self: FolderContainer, keys: Sequence[str]) -> list[bytes]:
        asked.append(list(keys))
        return read(self, keys)

    monkeypatch.setattr(FolderContainer, "read", counted)
    keys = ["0/c", "1/d", "0/a", "1/b", "0/c"]
    assert both.read(keys) == [b"ccc", b"DD", b"aaa", b"B", b"ccc"]
    assert asked == [["c", "a", "c"]]
    assert both.sizes(keys) == [3, 2, 3, 1, 3]
    assert both.peek(keys) == [b"cc", b"D", b"aa", b"B", b"cc"]
    assert both.read([]) == []
    assert both.where("1/b").endswith("more.zip!b")
    with pytest.raises(SourceError, match="gone: cannot be read"):
        both.read(["1/b", "0/gone"])
