"""The main job on real images, where they are at hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from conftest import answer, fedkit, refused

import fedrsic_data
from fedrsic_data.build.verify import verify

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
    refused(fedkit(*arguments, cwd=tmp_path), "43 of 45 classes are missing", "--allow-partial", codes=(1,))
    assert not list(tmp_path.iterdir())
    done = answer(fedkit(*arguments, "--allow-partial", "--json", cwd=tmp_path))
    assert done["subsets"]["fed-nwpu"]["rows"] == {"train": 192, "test": 48}
    assert verify(tmp_path / "data/fed-rsic")[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["flair", "coco", "voc"])
def test_fedlgt_learns_on_real_photographs(real_data: Path, tmp_path: Path, recipe: str) -> None:
    """Few, small and from random weights: the loss falls, and no figure is anything but a percentage or absent."""
    sets = ["--set", "split_by=sample", "--set", "splits.test=0.2"] if recipe == "voc" else []
    users = [] if recipe == "flair" else ["--clients", 3]
    build = ("build", recipe, "--sources", real_data, "--allow-partial", "--out", "fed", *users, *sets)
    answer(fedkit(*build, "--json", cwd=tmp_path))
    settings = (
        "rounds=2",
        "epochs=2",
        "lr=1e-3",
        "image_size=64",
        "backbone_weights=none",
        "clip=tiny",
        "eval_every=2",
    )
    words = [word for text in settings for word in ("--set", text)]
    done = fedkit("train", "fedlgt", "--manifest", "fed", *words, "--json", cwd=tmp_path, OMP_NUM_THREADS="1")
    (run,) = answer(done)["runs"]
    lines = [json.loads(line) for line in (Path(tmp_path, run["folder"]) / "metrics.jsonl").read_text().splitlines()]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert run["figures"]["test/C-AP"] > 0
    assert all(value is None or 0 <= value <= 100 for value in run["figures"].values())
