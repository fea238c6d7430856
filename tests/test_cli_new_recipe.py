"""``fedkit new``: recipes for images of a person's own build with no hand edit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import answer, fedkit, put, refused, tiny_image

import fedrsic_data
from fedrsic_data.build.verify import verify
from fedrsic_data.cli import new_recipe
from fedrsic_data.dataset import schema
from fedrsic_data.errors import OutputError, SourceError, UsageError

DOMAINS = ("amazon", "dslr", "webcam")


def office(root: Path, count: int = 12) -> Path:
    """Three domains of two classes."""
    return put(root, *(f"{d}/{c}/{i}.png" for d in DOMAINS for c in ("bike", "mug") for i in range(count)))


def listed(root: Path, header: str, *rows: str) -> Path:
    """Forty images without folders, and a table whose rows are taken in turn."""
    names = [f"{i:02d}.png" for i in range(40)]
    put(root, *names)
    lines = [f"{name},{rows[i % len(rows)]}" for i, name in enumerate(names)]
    (root / "labels.csv").write_text("\n".join([f"file,{header}", *lines]))
    return root


def draft(name: str | None = None, *, sets: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
    """The recipe that these options draft."""
    places = {key: str(options.pop(key)) for key in ("folder", "parquet") if key in options}
    chosen = new_recipe.settings(places.get("folder"), None, places.get("parquet"), sets)
    return new_recipe.draft(chosen, name, **options).recipe


@pytest.mark.realdata
def test_real_images_of_three_domains(real_data: Path, tmp_path: Path) -> None:
    images = sorted((real_data / "ucmerced").rglob("*.jpg"))
    for number, path in enumerate(images):
        folder = tmp_path / "office" / DOMAINS[number % 3] / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name)
    seen = answer(fedkit("new", "my.json", "--folder", "office", "--json", cwd=tmp_path))
    assert (seen["images"], len(seen["classes"]), seen["domains"]) == (2100, 21, dict.fromkeys(DOMAINS, 700))
    built = answer(fedkit("build", "my.json", "--json", cwd=tmp_path))
    assert built["subsets"]["office"]["rows"] == {"train": 1680, "test": 420}
    assert verify(tmp_path / "data/office")[1] == []
    subset = fedrsic_data.open(tmp_path / "data/office").subset("office")
    tables = [subset.read(split, ["image", "domain", "client_id"]) for split in subset.splits]
    rows = [row for table in tables for row in table.to_pylist()]
    assert {row["domain"] for row in rows} == set(DOMAINS)
    homes = {row["client_id"]: set() for row in rows}
    for row in rows:
        homes[row["client_id"]].add(row["domain"])
    assert {len(home) for home in homes.values()} == {1}, "every client sees one domain"
    there = sorted((path.name, path.read_bytes()) for path in images)
    assert sorted((row["image"]["path"], row["image"]["bytes"]) for row in rows) == there


def test_a_folder_from_new_to_verify(tmp_path: Path) -> None:
    office(tmp_path / "pictures of mine")
    done = fedkit("new", "my.json", "--folder", "pictures of mine", "--clients", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        "72 images, 2 classes (bike, mug)",
        "3 domains: amazon 24, dslr 24, webcam 24",
        "fedkit build my.json",
    ):
        assert words in done.stdout
    data = json.loads((tmp_path / "my.json").read_text())
    assert data["name"] == "pictures-of-mine"
    assert data["partition"] == {"name": "skew", "clients": 4, "alpha": 0.5, "domain_mix": 0.0}
    built = answer(fedkit("build", "my.json", "--json", cwd=tmp_path))
    assert built["subsets"]["pictures-of-mine"]["clients"] == 4
    assert verify(tmp_path / "data/pictures-of-mine")[1] == []
    assert "licence not stated" in (tmp_path / "data/pictures-of-mine/README.md").read_text()
    moved = tmp_path / "elsewhere"
    (tmp_path / "pictures of mine").rename(moved)
    again = ("build", "my.json", "--json", "--out", "again", "--source", f"pictures-of-mine={moved}")
    assert answer(fedkit(*again, cwd=tmp_path))["plan"] == built["plan"]


def test_a_parquet_file_from_new_to_verify(tmp_path: Path) -> None:
    images = pa.array([{"bytes": tiny_image(i, ".png"), "path": None} for i in range(60)], schema.IMAGE)
    species = [("owl", "jay", "tit")[i % 3] for i in range(60)]
    pq.write_table(pa.table({"photo": images, "species": species, "x": [0.5] * 60}), tmp_path / "birds.parquet")
    refused(fedkit("new", "my.json", "--parquet", "birds.parquet", cwd=tmp_path), "no label column", codes=(1,))
    arguments = ("new", "my.json", "--parquet", "birds.parquet", "--set", "label=species", "--set", "licence=CC0")
    seen = answer(fedkit(*arguments, "--json", cwd=tmp_path))
    assert (seen["name"], seen["classes"], seen["clients"]) == ("birds", ["jay", "owl", "tit"], 3)
    data = json.loads((tmp_path / "my.json").read_text())
    mine = {"kind": "hub", "path": "birds.parquet", "image": "photo", "label": "species", "licence": "CC0"}
    assert data["sources"]["birds"] == mine
    built = answer(fedkit("build", "my.json", "--json", cwd=tmp_path))
    assert built["subsets"]["birds"]["rows"] == {"train": 48, "test": 12}
    assert verify(tmp_path / "data/birds")[1] == []


def test_label_sets_of_users_from_new_to_verify(tmp_path: Path) -> None:
    rows = ("sea;sand,ann,train", "sand,bob,train", ",cid,train", "sea|rock,ann,test")
    listed(tmp_path / "beach", "labels,user,split", *rows)
    seen = answer(fedkit("new", "my.json", "--folder", "beach", "--json", cwd=tmp_path))
    assert seen["multi_label"] is True
    assert (seen["users"], seen["splits"], seen["partition"]) == (3, {"test": 10, "train": 30}, {"name": "natural"})
    built = answer(fedkit("build", "my.json", "--json", cwd=tmp_path))
    assert built["subsets"]["beach"] == {"rows": {"train": 30, "test": 10}, "clients": 3, "skipped": 0}
    assert verify(tmp_path / "data/beach")[1] == []
    assert fedrsic_data.open(tmp_path / "data/beach").subset("beach").clients == ("ann", "bob", "cid")


@pytest.mark.parametrize(
    ("header", "rows", "options", "partition"),
    [
        ("label", ("a", "b"), {}, {"name": "dirichlet", "clients": 2, "alpha": 0.5}),
        ("label", ("a", "b"), {"clients": 5, "alpha": 0.1}, {"name": "dirichlet", "clients": 5, "alpha": 0.1}),
        ("labels", ("a;b", "b"), {}, {"name": "dirichlet", "clients": 2, "alpha": 0.5}),
        ("labels,domain", ("a;b,x", "b,y", "b,z"), {}, {"name": "domain", "clients": 3}),
        ("labels,domain", ("a;b,x", "b,y"), {"alpha": 1}, {"name": "dirichlet", "clients": 2, "alpha": 1}),
        ("label,user", ("a,u", "b,v", "b,w"), {}, {"name": "natural"}),
        ("label,user", ("a,u", "b,v", "b,w"), {"clients": 2}, {"name": "natural", "clients": 2}),
        ("label,user", ("a,u", "b,v"), {"alpha": 0.3}, {"name": "dirichlet", "clients": 2, "alpha": 0.3}),
        ("label,user", ("a,u", "b,u"), {}, {"name": "dirichlet", "clients": 2, "alpha": 0.5}),
    ],
)
def test_partitions_follow_the_data(
    header: str, rows: tuple[str, ...], options: dict[str, Any], partition: dict[str, Any], tmp_path: Path
) -> None:
    assert draft(folder=listed(tmp_path, header, *rows), **options)["partition"] == partition


@pytest.mark.parametrize(
    ("rows", "splits"),
    [
        (("a,train", "b,validation"), {"splits": {}, "split_by": "source"}),
        (("a,train", "b,train"), {"splits": {"test": 0.2}}),
        (("a,one", "b,two"), {"splits": {"test": 0.2}}),
    ],
)
def test_splits_follow_the_data(rows: tuple[str, ...], splits: dict[str, Any], tmp_path: Path) -> None:
    data = draft(folder=listed(tmp_path, "label,split", *rows))
    assert {key: value for key, value in data.items() if key.startswith("split")} == splits


def test_names(tmp_path: Path) -> None:
    for folder, name in (("Été 2024!", "t-2024"), ("ucmerced", "my-ucmerced"), ("...", "images")):
        assert draft(folder=listed(tmp_path / folder, "label", "a", "b"))["name"] == name
    assert draft("other", folder=tmp_path / "ucmerced")["name"] == "other"
    with pytest.raises(UsageError, match="--name ucmerced: is the name of a source"):
        draft("ucmerced", folder=tmp_path / "ucmerced")
    with pytest.raises(UsageError, match="'a b' is not a name"):
        draft("a b", folder=tmp_path / "ucmerced")


def test_what_cannot_be_built_is_refused_before_it_is_written(tmp_path: Path) -> None:
    folder = listed(tmp_path / "x", "label", "a", "b")
    with pytest.raises(UsageError, match="clients=500"):
        draft(folder=folder, clients=500)
    with pytest.raises(UsageError, match="alpha"):
        draft(folder=folder, alpha=-1)
    with pytest.raises(SourceError, match="no: does not exist"):
        draft(folder=tmp_path / "no")
    with pytest.raises(UsageError, match="unknown key 'laoyut'; did you mean 'layout'"):
        draft(folder=folder, sets=("laoyut=csv",))
    with pytest.raises(UsageError, match="should look like key=value"):
        draft(folder=folder, sets=("layout",))
    with pytest.raises(UsageError, match="kinds of folders are folder, coco_format"):
        draft(folder=folder, sets=("kind=ucmerced",))
    for places in ((None, None, None), ("a", "u/d", None)):
        with pytest.raises(UsageError, match="one of --folder PATH, --hub USER/NAME, --parquet PATH"):
            new_recipe.settings(*places)
    with pytest.raises(UsageError, match="repo='nonsense' should look like USER/NAME"):
        new_recipe.draft(new_recipe.settings(None, "nonsense", None))


def test_settings_of_the_hub() -> None:
    chosen = {"kind": "hub", "repo": "u/d", "revision": None, "splits": {"test": None}}
    assert new_recipe.settings(None, "u/d", None, ['splits={"test": null}']) == chosen
    assert new_recipe.settings(None, "hf://datasets/u/d@v1", None)["revision"] == "v1"


def test_a_recipe_is_never_written_over(tmp_path: Path) -> None:
    office(tmp_path / "office")
    (tmp_path / "my.json").write_text("mine")
    arguments = ("new", "my.json", "--folder", "office")
    refused(fedkit(*arguments, cwd=tmp_path), "my.json: already exists", "--force", codes=(1,))
    assert (tmp_path / "my.json").read_text() == "mine"
    refused(fedkit(*arguments, "--force", cwd=tmp_path), "my.json", "is not a recipe of fedkit", codes=(1,))
    assert (tmp_path / "my.json").read_text() == "mine"
    (tmp_path / "my.json").unlink()
    assert fedkit(*arguments, cwd=tmp_path).returncode == 0
    refused(fedkit(*arguments, cwd=tmp_path), "my.json: already exists", "--force", codes=(1,))
    (tmp_path / "my.json.tmp").write_text("mine")
    assert fedkit(*arguments, "--force", cwd=tmp_path).returncode == 0
    assert (tmp_path / "my.json.tmp").read_text() == "mine"
    (tmp_path / "my.json.tmp").unlink()
    assert json.loads((tmp_path / "my.json").read_text())["name"] == "office"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("my")) == ["my.json"]
    with pytest.raises(OutputError, match="is a folder"):
        new_recipe.check(tmp_path, force=True)
    (tmp_path / "link.json").symlink_to("my.json")
    with pytest.raises(OutputError, match="link.json: is a link"):
        new_recipe.check(tmp_path / "link.json", force=True)
    for words in ('{"fedkit": 1, "recipe": {}, "subsets": {}}', '{"fedkit": 1, "config": {}}', '{"name": "x"}', "{}"):
        (tmp_path / "other.json").write_text(words)  # a dataset's manifest, a run's config
        with pytest.raises(OutputError, match="is not a recipe of fedkit"):
            new_recipe.check(tmp_path / "other.json", force=True)
    drafted = new_recipe.draft(new_recipe.settings(str(tmp_path / "office"), None, None))
    with pytest.raises(OutputError, match="cannot be written"):
        new_recipe.write(tmp_path / "no" / "my.json", drafted)


@pytest.mark.parametrize(
    ("file", "recipe"),
    [
        ("annotations/instances_val2017.json", "coco"),
        ("labels_and_metadata.json", "flair"),
        ("VOC2012/ImageSets/Main/train.txt", "voc"),
    ],
)
def test_a_dataset_with_a_recipe_of_its_own_is_known(tmp_path: Path, file: str, recipe: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("")
    with pytest.raises(UsageError, match=f"has the layout of {recipe}; run: fedkit build {recipe} --source {recipe}="):
        new_recipe.settings(str(tmp_path), None, None)


def test_one_class_that_two_sources_spell_in_two_ways_is_refused(tmp_path: Path) -> None:
    for name, other in (("one", "storage_tank"), ("two", "Storage Tank")):
        put(tmp_path / name, f"{other}/1.png", "dog/2.png", f"{other}/3.png")
    sources = {name: {"kind": "folder", "path": name} for name in ("one", "two")}
    partition = {"name": "iid", "clients": 2}
    data = {"name": "both", "subsets": {"all": {"sources": ["one", "two"]}}, "sources": sources, "partition": partition}
    (tmp_path / "both.json").write_text(json.dumps({"fedkit": 1, **data}))
    words = "class 'storage_tank' of one is spelled 'Storage Tank' in two; rename one of them"
    refused(fedkit("build", "both.json", "--dry-run", cwd=tmp_path), words, codes=(2,))


def test_a_class_without_images_is_in_the_label_space_of_a_build_if_asked(tmp_path: Path) -> None:
    office(tmp_path / "office")
    (tmp_path / "office/dslr/owl").mkdir()
    done = fedkit("new", "my.json", "--folder", "office", cwd=tmp_path)
    assert "without images: dslr/owl: no class; keep it as one with --set empty_classes=keep" in done.stdout
    kept = ("--set", "empty_classes=keep", "--force")
    assert "3 classes (bike, mug, owl)" in fedkit("new", "my.json", "--folder", "office", *kept, cwd=tmp_path).stdout
    fedkit("build", "my.json", cwd=tmp_path)
    assert fedrsic_data.open(tmp_path / "data/office").subset("office").classes == ("bike", "mug", "owl")
    assert verify(tmp_path / "data/office")[1] == []


def test_a_folder_of_parquet_files_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(SourceError, match="holds no images below it, but Parquet files: use --parquet"):
        draft(folder=tmp_path)
