"""Single-label datasets of papers: fakes with the layouts of their mirrors; what is not of a dataset is refused."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import put, tiny_image
from test_source_parquet import class_label, save

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.build.verify import verify
from fedrsic_data.dataset import schema
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.sources import SOURCES
from fedrsic_data.sources.benchmark import Benchmark, BenchmarkSettings
from fedrsic_data.sources.locate import Places, locate
from fedrsic_data.sources.testing import check_source

BENCHMARKS: dict[str, Benchmark] = {name: one for name, one in SOURCES.items() if isinstance(one, Benchmark)}
MIRRORED = [name for name, one in BENCHMARKS.items() if one.facts.hub is not None]
LISTED = [name for name, one in BENCHMARKS.items() if one.coop is not None]
PINNED = [name for name in MIRRORED if getattr(BENCHMARKS[name].facts.hub, "revision", None)]
EUROSAT = (
    *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"),
    *("Pasture", "PermanentCrop", "Residential", "River", "SeaLake"),
)
SPELLED = {
    "cifar100": {"crab": "cra"},
    "caltech101": {"airplane": "airplanes", "face": "faces", "leopard": "leopards", "motorbike": "motorbikes"},
    "flowers102": {"pink-yellow dahlia": "pink-yellow dahlia?"},
    "eurosat": dict(zip(BENCHMARKS["eurosat"].classes, EUROSAT, strict=True)),
}
"""Classes as the mirrors spell them, where that is not the name here."""
CONFIGS = {"cifar10": "plain_text", "cifar100": "cifar100"}
"""Configs of the mirrors, which are also their folders; others have one by name, and their files in ``data``."""
COLUMNS = {"cifar10": ("img", "label"), "cifar100": ("img", "fine_label")}
MORE = {
    "cifar100": {"coarse_label": class_label("aquatic_mammals", "fish")},
    "oxford-pets": {"label_cat_dog": class_label("cat", "dog")},
}
"""Other columns of class labels that the mirrors have."""


def mirror_names(name: str) -> list[str]:
    """The class names in a mirror's schema, in its order."""
    spelled = SPELLED.get(name, {})
    names = [spelled.get(known, known) for known in BENCHMARKS[name].classes]
    return sorted([*names, "faces_easy"]) if name == "caltech101" else names


def write_mirror(root: Path, name: str, labels: Sequence[int] | None = None, **more: Any) -> Path:
    """The Parquet files of a mirror: two images of each class in each split and domain, or those with ``labels``."""
    source, names, numbers = BENCHMARKS[name], more.get("names") or mirror_names(name), count()
    image, label = COLUMNS.get(name, ("image", "label"))
    domains, folder, words = more.get("domains") or list(source.domains), CONFIGS.get(name, "data"), list[str]()
    for split in more.get("splits") or source.splits or ["train"]:
        held = list(labels or [*range(len(names)), *range(len(names))]) * max(len(domains), 1)
        cells = [{"bytes": tiny_image(next(numbers), ".png"), "path": None} for _ in held]
        columns: dict[str, Any] = {image: pa.array(cells, schema.IMAGE), label: pa.array(held)}
        features = {image: {"_type": "Image"}, label: class_label(*names)}
        if domains:
            each = len(held) // len(domains)
            columns["domain"] = pa.array([domain for domain in domains for _ in range(each)])
        for other, feature in MORE.get(name, {}).items():
            columns[other], features[other] = pa.array([0] * len(held)), feature
        word = "validation" if (name, split) == ("food101", "test") else {"val": "validation"}.get(split, split)
        words.append(f"  - split: {word}\n    path: {folder}/{word}-*")
        save(root / folder / f"{word}-00000-of-00001.parquet", features, group=64, **columns)
    config = CONFIGS.get(name, "default")
    (root / "README.md").write_text(
        "\n".join(["---", "configs:", f"- config_name: {config}", "  data_files:", *words, "---", f"# {name}", ""])
    )
    return root


def write_domains(root: Path, name: str, rename: dict[str, str] | None = None) -> Path:
    """``<domain>/<class>/<image>``, named as DomainNet names its files."""
    source = BENCHMARKS[name]
    return put(
        root,
        *(
            f"{domain}/{(rename or {}).get(c, c)}/{domain}_{at * 7 + 1:03d}_{n:06d}.jpg"
            for domain in source.domains
            for at, c in enumerate(source.classes)
            for n in (1, 2)
        ),
    )


def write(root: Path, name: str) -> Path:
    """A small copy in the layout that the set has."""
    return write_mirror(root, name) if name in MIRRORED else write_domains(root, name)


def shown(source: Benchmark, path: Path, **more: Any) -> list[tuple[str, str, str | None]]:
    """Class, domain and split of each row."""
    index = source.index(path, allow_partial=True, **more)
    columns = (index.table.column(name).to_pylist() for name in ("labels", "domain", "split"))
    return [(index.classes[label], domain, split) for (label,), domain, split in zip(*columns, strict=True)]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_copy_gets_the_names_the_order_and_the_splits_of_the_set(name: str, tmp_path: Path) -> None:
    source = BENCHMARKS[name]
    index = source.index(write(tmp_path, name), allow_partial=True)
    assert index.classes == source.classes
    assert len(set(source.classes)) == len(source.classes)
    found = shown(source, tmp_path)
    cells = [
        (c, domain, split)
        for c in source.classes
        for domain in source.domains or [name]
        for split in source.splits or [None]
    ]
    assert sorted(found, key=str) == sorted(cells * 2, key=str)
    check_source(source, tmp_path)


def test_classes_that_are_not_of_the_set_are_left_out_and_counted(tmp_path: Path) -> None:
    (left,) = BENCHMARKS["caltech101"].index(write_mirror(tmp_path, "caltech101"), allow_partial=True).left_out
    assert (left.reason, left.count) == ("of a class that is not of the set", 2)
    put(write_domains(tmp_path / "net", "domainnet10"), "real/axe/real_015_000001.jpg")
    (left,) = BENCHMARKS["domainnet10"].index(tmp_path / "net", allow_partial=True).left_out
    assert (left.count, left.examples) == (1, ("domainnet10/real/axe/real_015_000001.jpg",))


def test_class_names_follow_the_images_whatever_the_order_in_the_schema(tmp_path: Path) -> None:
    source = BENCHMARKS["cifar10"]
    names = list(source.classes[::-1])
    write_mirror(tmp_path, "cifar10", [0, 0, 0, 9], names=names)
    index = source.index(tmp_path, allow_partial=True)
    table = index.table.filter(pa.array([key.as_py() == "3" for key in index.table.column("key")]))
    assert index.classes[table.column("labels").to_pylist()[0][0]] == names[9] == "airplane"


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("cifar10", {"names": ["plane", *BENCHMARKS["cifar10"].classes[1:]]}, "'plane' is not one of the 10 classes"),
        (
            "caltech101",
            {"names": [*BENCHMARKS["caltech101"].classes, "Faces"]},
            "'face' of Caltech-101 is .* two",
        ),
        ("dtd", {"splits": ["train", "dev"]}, "'val' is no split of Describable Textures Dataset .train, test."),
        ("pacs", {"domains": ["photo", "watercolour"]}, "'watercolour' is no domain of PACS .art_painting, cartoon"),
    ],
)
def test_what_is_not_of_the_set_is_refused(name: str, more: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_mirror(tmp_path, name, **more)
    with pytest.raises(SourceError, match=words):
        BENCHMARKS[name].index(tmp_path, allow_partial=True)


def test_images_are_counted(tmp_path: Path) -> None:
    path = write_mirror(tmp_path, "cifar10")
    with pytest.raises(
        SourceError, match="20 of 50,000 images of split train are there; 20 of 10,000 .*--allow-partial"
    ):
        BENCHMARKS["cifar10"].index(path)
    whole = dataclasses.replace(BENCHMARKS["cifar10"], official={"train": 20, "test": 20})
    assert whole.index(path).missing == ()
    small = dataclasses.replace(whole, official={"train": 20, "test": 19})
    with pytest.raises(SourceError, match="holds 20 images of split test, CIFAR-10 has 19; give its files alone"):
        small.index(path, allow_partial=True)


def test_a_domain_without_a_class_is_incomplete(tmp_path: Path) -> None:
    source = dataclasses.replace(BENCHMARKS["office-caltech10"], images=78)
    path = write_domains(tmp_path, "office-caltech10")
    for file in (path / "dslr/mug").iterdir():
        file.unlink()
    with pytest.raises(SourceError, match="1 of 10 classes of domain dslr have no image: mug"):
        source.index(path)
    assert len(source.index(path, allow_partial=True).classes) == 10


def test_a_domain_in_two_spellings_is_refused(tmp_path: Path) -> None:
    source = dataclasses.replace(BENCHMARKS["office-caltech10"], images=80)
    path = write_domains(tmp_path, "office-caltech10")
    (path / "Webcam/mug").mkdir(parents=True)
    for file in (path / "webcam/mug").iterdir():
        file.rename(path / "Webcam/mug" / file.name)
    with pytest.raises(SourceError, match="domain 'webcam' of Office-Caltech10 is there in two spellings; keep one"):
        source.index(path, allow_partial=True)


def test_folders_may_spell_as_either_set_of_office_caltech(tmp_path: Path) -> None:
    rename = {"laptop": "laptop_computer", "backpack": "back_pack", "mug": "coffee-mug"}
    source = dataclasses.replace(BENCHMARKS["office-caltech10"], images=80)
    assert source.index(write_domains(tmp_path, "office-caltech10", rename)).missing == ()


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        (
            "real/zebra/sketch_064_000009.jpg",
            None,
            "real/zebra/sketch_064_000009.jpg lies in domain real, but is called",
        ),
        ("real/zebra/real_001_000009.jpg", "bird", "have class number 001, but lie in"),
    ],
)
def test_a_misfiled_image_is_refused(here: str, there: str | None, words: str, tmp_path: Path) -> None:
    path = put(write_domains(tmp_path, "domainnet10"), here)
    with pytest.raises(SourceError, match=words) as refused:
        BENCHMARKS["domainnet10"].index(path)
    assert there is None or there in str(refused.value)


@pytest.mark.parametrize("name", PINNED)
def test_a_pinned_mirror_is_the_commit_in_the_cache(name: str, tmp_path: Path) -> None:
    hub = BENCHMARKS[name].facts.hub
    assert hub is not None
    assert re.fullmatch("[0-9a-f]{40}", str(hub.revision))
    folder = tmp_path / "sources" / name / f"{hub.repo.replace('/', '--')}@{hub.revision}"
    folder.mkdir(parents=True)
    assert locate(BENCHMARKS[name], Places(offline=True, cache=tmp_path)) == folder


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_recipe_builds_from_a_copy_and_from_its_sample(name: str, tmp_path: Path) -> None:
    sets = ["allow_partial=true", "clients=4", "min_size=1"] if name not in ("pacs",) else ["allow_partial=true"]
    data = recipes.override(recipes.load(name), sets=sets)
    places = Places(given={name: str(write(tmp_path / "copy", name))})
    built = pipeline.build(pipeline.prepare(recipes.from_json(data, name), places), tmp_path / "real")
    assert built.manifest.subsets[name].classes == BENCHMARKS[name].classes
    small = [*(["clients=10"] if name.startswith("cifar") else []), "sample.per_class=5", "sample.size=32"]
    data = recipes.override(recipes.load(name), sample=True, sets=small)
    built = pipeline.build(pipeline.prepare(recipes.from_json(data, name), Places(offline=True)), tmp_path / "sample")
    entry, source = built.manifest.subsets[name], BENCHMARKS[name]
    words = f"sample of {source.facts.title} (procedural, scenes under their own names)"
    assert built.manifest.sources[name].title == words
    assert len(entry.classes) == min(len(source.classes), 33)
    assert set(entry.rows) == set(source.splits or ["train", "test"])
    subset = fedrsic_data.open(built.path).subset(name)
    domains = set(subset.plan.column("domain").to_pylist())
    assert domains == {f"sample-{domain}" for domain in source.domains or [name]}
    for client in map(subset.client, subset.clients):
        if source.domains:
            assert len(set(client.read("train", ["domain"]).column(0).to_pylist())) == 1
    assert verify(built.path)[1] == []


def test_samples_of_two_sets_have_no_picture_in_common(tmp_path: Path) -> None:
    data = {"fedkit": 1, "name": "x", "subsets": {"x": {"sources": ["dtd", "food101", "pacs"]}}, "duplicates": "error"}
    data |= {"sample": {"per_class": 4, "size": 32}, "partition": {"name": "iid", "clients": 2}}
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    assert planned.rows == 4 * (33 + 33 + 4 * 7)


def test_superclasses_can_be_the_domains(tmp_path: Path) -> None:
    source = BENCHMARKS["cifar100"]
    assert sorted(c for classes in source.superclasses.values() for c in classes) == sorted(source.classes)
    assert {len(classes) for classes in source.superclasses.values()} == {5}
    grouped = dataclasses.replace(source, settings=BenchmarkSettings("superclass"))
    write_mirror(tmp_path, "cifar100")
    for name, domain, _ in shown(grouped, tmp_path):
        assert name in source.superclasses[domain]
    sets = ["sources.cifar100.domains=superclass", "clients=20", "alpha=0.01", "allow_partial=true"]
    for sample in (False, True):
        data = recipes.override(recipes.load("cifar100"), partitioner="pachinko", sample=sample, sets=sets)
        places = Places(offline=True) if sample else Places(given={"cifar100": str(tmp_path)})
        planned = pipeline.prepare(recipes.from_json(data, "test"), places)
        held = planned.subsets[0].domain_counts()
        assert held.shape == ((20, 7) if sample else (20, 20))
        assert (held > 0).sum(axis=1).mean() < 4, "a client has few superclasses"
    data = recipes.override(recipes.load("cifar10"), sets=["sources.cifar10.domains=superclass"])
    with pytest.raises(UsageError, match="domains=superclass: CIFAR-10 has no superclasses; leave it out"):
        recipes.from_json(data, "cifar10")


# CoOp's lists


def write_list(root: Path, name: str, change: Callable[[dict[str, list[Any]]], None] = lambda _: None) -> Benchmark:
    """A list of CoOp's and its images, a class more in each split than in the last; the source, with these counts."""
    source = BENCHMARKS[name]
    assert source.coop is not None
    order = [*source.classes[1:], source.classes[0]]  # whatever order it has is that of the set
    found: dict[str, list[Any]] = {split: [] for split in ("train", "val", "test")}
    for label, known in enumerate(order):
        for number, rows in enumerate(found.values()):
            rows += [[f"{known}/{number}-{n}.png", label, known] for n in range(number + 1)]
    put(root / "set" / source.coop.folder, *(file for rows in found.values() for file, _, _ in rows), "extra/1.png")
    change(found)
    (root / "set" / source.coop.file).write_text(json.dumps(found))
    n = len(source.classes)
    counted = dataclasses.replace(source.coop, images=(n, 2 * n, 3 * n))
    return dataclasses.replace(source, settings=BenchmarkSettings(split="coop"), coop=counted)


@pytest.mark.parametrize("name", LISTED)
def test_a_list_of_coop_gives_its_splits_and_its_order(name: str, tmp_path: Path) -> None:
    source = write_list(tmp_path, name)
    index = source.index(tmp_path)
    assert index.classes == (*source.classes[1:], source.classes[0])
    assert index.missing == ()
    found = Counter(shown(source, tmp_path))
    splits = {"train": 1, "val": 2, "test": 3}
    assert found == {(c, name, split): count for c in source.classes for split, count in splits.items()}
    for key, (label,) in zip(*(index.table.column(c).to_pylist() for c in ("key", "labels")), strict=True):
        assert key.split("/")[0] == index.classes[label]
    assert [(left.reason, left.count) for left in index.left_out] == [(f"not in {source.coop.file}", 1)]  # type: ignore[union-attr]
    assert source.facts.hub is None
    check_source(source, tmp_path)


def test_the_counts_of_coops_lists_are_those_of_the_sets() -> None:
    """Lists divide the very images of the official splits; only Caltech-101 has none."""
    for name in LISTED:
        source = BENCHMARKS[name]
        assert source.coop is not None
        whole = source.images or sum(source.official.values())
        assert sum(source.coop.images) == whole, name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found.pop("val"), "has no list 'val'"),
        (
            lambda found: found["val"].append(["x.png", "0", "banded"]),
            r"val.94. is .*; expected .path, label",
        ),
        (lambda found: found["test"].append(["x.png", 0, "dotted"]), "label 0 is 'dotted', and 'blotchy' before"),
        (lambda found: found["test"].append(["x.png", 99, "dotted"]), "class 'dotted' has two labels"),
        (lambda found: found["test"].append(["x.png", 0, "blotchy"]), "file 'x.png' does not exist"),
        (lambda found: found["test"].append(["../x.png", 0, "blotchy"]), "is not below the folder"),
        (lambda found: found["val"].append(found["train"][0]), "are both of 'blotchy/0-0.png'"),
        (lambda found: found["val"].append(["extra/1.png", 47, "plaid"]), "'plaid' is not one of the 47 classes"),
        (lambda found: found["val"].pop(), "93 of 94 images of split val are there"),
        (lambda found: found["val"].append(["extra/1.png", 0, "blotchy"]), "holds 95 images of split val, .* has 94"),
    ],
)
def test_lists_that_cannot_be_used(change: Callable[[Any], None], words: str, tmp_path: Path) -> None:
    source = write_list(tmp_path, "dtd", change)
    with pytest.raises(SourceError, match=words):
        source.index(tmp_path)


def test_a_list_without_its_images_or_a_set_without_a_list(tmp_path: Path) -> None:
    source = write_list(tmp_path, "dtd")
    with pytest.raises(SourceError, match="holds no split_zhou_DescribableTextures.json; give the folder"):
        source.index(tmp_path / "set/images")
    (tmp_path / "set/images/banded/0-0.png").unlink()
    with pytest.raises(SourceError, match="file 'banded/0-0.png' does not exist"):
        source.index(tmp_path)
    (missing,) = source.index(tmp_path, allow_partial=True).missing
    assert missing == "46 of 47 images of split train are there"
    (tmp_path / "set/images").rename(tmp_path / "set/pictures")
    with pytest.raises(SourceError, match="images: does not exist; split_zhou_Describ.* lists its images"):
        source.index(tmp_path)
    data = recipes.override(recipes.load("pacs"), sets=["sources.pacs.split=coop"])
    with pytest.raises(UsageError, match="sources.pacs: split=coop: CoOp has no list of PACS; leave it out"):
        recipes.from_json(data, "pacs")


@pytest.mark.parametrize("sample", [False, True])
def test_a_recipe_builds_with_the_split_of_a_list(sample: bool, tmp_path: Path) -> None:
    write_list(tmp_path / "copy", "caltech101")
    sets = ["sources.caltech101.split=coop", "split_by=source", "splits={}", "allow_partial=true"]
    data = recipes.override(recipes.load("caltech101"), sample=sample, sets=sets)
    places = Places(offline=True) if sample else Places(given={"caltech101": str(tmp_path / "copy")})
    built = pipeline.build(pipeline.prepare(recipes.from_json(data, "test"), places), tmp_path / "out")
    rows = built.manifest.subsets["caltech101"].rows
    assert rows == ({"train": 792, "val": 264, "test": 264} if sample else {"train": 100, "val": 200, "test": 300})
    assert built.manifest.recipe.sources == {"caltech101": {"kind": "caltech101", "domains": "source", "split": "coop"}}
