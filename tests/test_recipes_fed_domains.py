"""fed-domains: the classes all sources share, a domain a client, near-duplicates on one side of the split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import encoded, sampled, write_optimal31, write_ucmerced
from PIL import Image

import fedrsic_data
from fedrsic_data import recipes, sample
from fedrsic_data.build import duplicates, pipeline
from fedrsic_data.build.verify import verify
from fedrsic_data.sources import vocabulary
from fedrsic_data.sources.locate import Places


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Sixty different scenes."""
    scenes = [sample.render(c, "ucmerced", seed=1, index=i, size=96) for c in sample.CLASSES[:20] for i in range(3)]
    return [Image.fromarray(scene.pixels) for scene in scenes]


def test_the_same_picture_is_found_whatever_encoded_or_resized_it(pictures: list[Image.Image]) -> None:
    originals = [encoded("PNG", p) for p in pictures]
    copies = [
        encoded("JPEG", pictures[3], quality=60),
        encoded("JPEG", pictures[17].resize((80, 80)), quality=85),
        encoded("PNG", pictures[40]),
    ]
    files = originals + copies
    domains = np.array([0] * 60 + [1] * 3, np.int32)
    found = duplicates.find(lambda rows: [files[i] for i in rows], domains)
    assert [group.tolist() for group in found] == [[3, 60], [17, 61], [40, 62]]


def test_different_pictures_and_the_same_domain_are_not_duplicates(pictures: list[Image.Image]) -> None:
    files = [encoded("PNG", p) for p in pictures]
    assert duplicates.find(lambda rows: [files[i] for i in rows], np.arange(60, dtype=np.int32) % 3) == []
    twice = files + files[:5]
    assert duplicates.find(lambda rows: [twice[i] for i in rows], np.zeros(65, np.int32)) == []


def test_groups_are_joined_over_three_domains(pictures: list[Image.Image]) -> None:
    files = [encoded("JPEG", p, quality=q) for p in pictures[6:12] for q in (95, 80, 60)]
    found = duplicates.find(lambda rows: [files[i] for i in rows], np.arange(18, dtype=np.int32) % 3)
    assert [group.tolist() for group in found] == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(6)]


def test_fed_domains_of_the_sample(tmp_path: Path) -> None:
    done = sampled(tmp_path / "out", subset="fed-domains")
    entry = done.manifest.subsets["fed-domains"]
    assert entry.classes == vocabulary.shared("optimal31", "resisc45", "ucmerced")
    assert {left.reason for left in entry.left_out} == {
        f"of a class of {source} that not all sources have" for source in ("optimal31", "resisc45", "ucmerced")
    }
    assert entry.skew["domain_entropy"]["value"] == 0.0
    subset = fedrsic_data.open(done.path).subset("fed-domains")
    for client in map(subset.client, subset.clients):
        assert len(set(client.read("train", ["domain"]).column(0).to_pylist())) == 1
    assert verify(done.path)[1] == []


def test_domain_mix(tmp_path: Path) -> None:
    entropy = [
        sampled(tmp_path / str(mix), f"domain_mix={mix}", subset="fed-domains")
        .manifest.subsets["fed-domains"]
        .skew["domain_entropy"]["value"]
        for mix in (0.0, 0.4, 1.0)
    ]
    assert entropy[0] < entropy[1] < entropy[2]


def test_duplicates_are_kept_on_one_side_and_listed(tmp_path: Path, pictures: list[Image.Image]) -> None:
    ucmerced, optimal31 = write_ucmerced(tmp_path / "u"), write_optimal31(tmp_path / "o")
    both = [(f"beach{i:02d}", f"beach({i + 1})") for i in range(10)]
    for i, (one, other) in enumerate(both):
        (ucmerced / f"UCMerced_LandUse/Images/beach/{one}.tif").write_bytes(encoded("TIFF", pictures[i]))
        (optimal31 / f"OPTIMAL-31/beach/{other}.jpg").write_bytes(encoded("JPEG", pictures[i], quality=70))
    data = {
        "fedkit": 1,
        "name": "x",
        "splits": {"test": 0.5},
        "subsets": {"both": {"sources": ["ucmerced", "optimal31"], "classes": "shared"}},
    }
    places = Places(given={"ucmerced": str(ucmerced), "optimal31": str(optimal31)})
    done = pipeline.build(pipeline.prepare(recipes.from_json(data, "test"), places), tmp_path / "out")
    entry = done.manifest.subsets["both"]
    # the other tiny images are plain colours, many of which look alike
    listed = {frozenset(group) for group in entry.duplicates}
    sides = {row["sample_id"]: row["split"] for row in fedrsic_data.open(done.path).plan.to_pylist()}
    for group in listed:
        assert len({sides[i] for i in group}) == 1
    assert sum(entry.rows.values()) == 15 * 160
    for one, other in both:
        assert any({f"ucmerced/beach/{one}", f"optimal31/beach/beach({int(other[6:-1]):02d})"} <= g for g in listed)
    assert verify(done.path)[1] == []


def test_all_four_subsets_build_from_the_sample(tmp_path: Path) -> None:
    data = recipes.override(recipes.load("fed-rsic"), sample=True, sets=["sample.per_class=4", "sample.size=32"])
    done = pipeline.build(pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True)), tmp_path / "out")
    assert set(done.manifest.subsets) == {"fed-optimal", "fed-ucmerced", "fed-nwpu", "fed-domains"}
    assert verify(done.path)[1] == []
