"""The main job on real images, where they are at hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from conftest import answer, fails, fedkit

import fedrsic_data
from fedrsic_data.verify import verify

pytestmark = pytest.mark.realdata


def test_uc_merced(real_data: Path, tmp_path: Path) -> None:
    arguments = ("build", "fed-rsic", "--alpha", "0.5", "--sources", real_data, "--subset", "fed-ucmerced")
    done = answer(fedkit(*arguments, "--json", cwd=tmp_path))
    assert done["subsets"]["fed-ucmerced"]["rows"] == {"train": 1680, "test": 420}
    subset = fedrsic_data.open(tmp_path / "data/fed-rsic").subset("fed-ucmerced")
    assert (len(subset.classes), len(subset.clients)) == (21, 10)
    rows = [row["image"] for split in subset.splits for row in subset.read(split, ["image"]).to_pylist()]
    ours = sorted((row["path"], hashlib.sha256(row["bytes"]).hexdigest()) for row in rows)
    files = (real_data / "ucmerced").rglob("*.jpg")
    assert ours == sorted((p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files)
    assert verify(tmp_path / "data/fed-rsic")[1] == []


def test_a_partial_resisc45_is_refused_or_taken_as_it_is(real_data: Path, tmp_path: Path) -> None:
    arguments = ("build", "fed-rsic", "--sources", real_data, "--subset", "fed-nwpu")
    fails(1, "43 of 45 classes are missing", "--allow-partial", done=fedkit(*arguments, cwd=tmp_path))
    assert not list(tmp_path.iterdir())
    done = answer(fedkit(*arguments, "--allow-partial", "--json", cwd=tmp_path))
    assert done["subsets"]["fed-nwpu"]["rows"] == {"train": 192, "test": 48}
    assert verify(tmp_path / "data/fed-rsic")[1] == []
