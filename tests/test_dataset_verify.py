"""Whatever is done to a dataset, verify names the file and says what differs."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import fedkit, make, sampled
from damage import edit, rewrite, swap
from PIL import Image

import fedrsic_data
from fedrsic_data.build.verify import verify
from fedrsic_data.dataset import manifest
from fedrsic_data.derive import sites
from fedrsic_data.errors import ManifestError, UsageError
from fedrsic_data.sources.locate import Places

SHARD = "fed-ucmerced/train/client-0003.parquet"
OTHER = "fed-ucmerced/train/client-0004.parquet"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def relabelled(table: pa.Table) -> pa.Table:
    labels = table.column("label").to_pylist()
    labels[0] = (labels[0] + 1) % 21
    return table.set_column(1, table.schema.field("label"), pa.array(labels, pa.int64()))


def stolen(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("client_id")
    return table.set_column(at, "client_id", pa.array(["client-0004"] * table.num_rows))


def mixed(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("client_id")
    names = ["client-0003"] * (table.num_rows - 1) + ["client-0004"]
    return table.set_column(at, "client_id", pa.array(names))


def reowned(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("client_id")
    names = table.column("client_id").to_pylist()
    names[0] = "client-0000" if names[0] != "client-0000" else "client-0001"
    return table.set_column(at, "client_id", pa.array(names))


def more_rows(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("rows")
    rows = table.column("rows").to_pylist()
    return table.set_column(at, "rows", pa.array([rows[0] + 1, *rows[1:]], pa.int64()))


def pictured(data: Callable[[list[bytes]], list[bytes | None]]) -> Callable[[Path], None]:
    """Other bytes in the place of a shard's images, in a dataset whose digests agree."""

    def change(table: pa.Table) -> pa.Table:
        rows = table.column("image").to_pylist()
        for row, one in zip(rows, data([row["bytes"] for row in rows]), strict=True):
            row["bytes"] = one
        return table.set_column(0, table.schema.field("image"), pa.array(rows, table.schema.field("image").type))

    return rewrite(SHARD, change)


def first(data: bytes | None) -> Callable[[Path], None]:
    return pictured(lambda files: [data, *files[1:]])


def painted(form: str, side: int = 64) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(made, form)
    return made.getvalue()


CASES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "deleted": (lambda d: (d / SHARD).unlink(), SHARD, "is missing"),
    "truncated": (lambda d: (d / SHARD).write_bytes((d / SHARD).read_bytes()[:-7]), SHARD, "bytes, the manifest says"),
    "flipped": (lambda d: flip(d / SHARD), SHARD, "has other content"),
    "emptied": (lambda d: (d / SHARD).write_bytes(b""), SHARD, "has 0 bytes"),
    "swapped": (lambda d: swap(d / SHARD, d / OTHER), SHARD, f"holds what belongs in {OTHER}"),
    "stray": (
        lambda d: shutil.copy(d / SHARD, d / "fed-ucmerced/train/x.parquet"),
        "fed-ucmerced/train/x.parquet",
        "not in",
    ),
    "plan flipped": (lambda d: flip(d / "plan.parquet"), "plan.parquet", "has other content"),
    "clients gone": (lambda d: (d / "clients.parquet").unlink(), "clients.parquet", "is missing"),
    "card edited": (lambda d: (d / "README.md").write_text("hi"), "README.md", "bytes, the manifest says"),
    "folder for file": (lambda d: ((d / SHARD).unlink(), (d / SHARD).mkdir()), SHARD, "is missing"),
    "recipe edited": (edit(lambda m: m["recipe"].update(seed=5)), "manifest.json", "was edited"),
    "rows edited": (
        edit(lambda m: m["subsets"]["fed-ucmerced"]["rows"].update(train=5)),
        "manifest.json",
        "was edited",
    ),
    "rows edited well": (
        edit(lambda m: m["subsets"]["fed-ucmerced"]["rows"].update(train=5), reseal=True),
        "manifest.json",
        "rows of fed-ucmerced",
    ),
    "skew edited well": (
        edit(lambda m: m["subsets"]["fed-ucmerced"]["skew"]["hellinger"].update(value=0.0), reseal=True),
        "manifest.json",
        "skew of fed-ucmerced",
    ),
    "classes edited well": (
        edit(lambda m: m["subsets"]["fed-ucmerced"]["classes"].reverse(), reseal=True),
        SHARD,
        "columns and class names",
    ),
    "relabelled well": (rewrite(SHARD, relabelled), "fed-ucmerced", "column labels"),
    "stolen well": (rewrite(SHARD, stolen), SHARD, "clients.parquet says otherwise"),
    "mixed well": (rewrite(SHARD, mixed), SHARD, "more than one client"),
    "row lost well": (rewrite(SHARD, lambda t: t.slice(1)), "fed-ucmerced", "images where the plan owns"),
    "row doubled well": (
        rewrite(SHARD, lambda t: pa.concat_tables([t, t.slice(0, 1)])),
        "fed-ucmerced",
        "1 images twice",
    ),
    "image emptied well": (first(b""), SHARD, "the file is empty (0 bytes)"),
    "image taken away well": (first(None), SHARD, "has no bytes (null)"),
    "image of text": (first(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), SHARD, "not an image of JPEG"),
    "image of a program": (first(painted("EPS")), SHARD, "not an image of JPEG"),
    "all images cut": (pictured(lambda files: [file[:-40] for file in files]), SHARD, "more images"),
    "another image": (first(painted("PNG")), SHARD, "clients.parquet says"),
    "a larger image": (first(painted("PNG", 65)), SHARD, "65 x 65 pixels, the recipe renders"),
    "row groups above the recipe's": (
        edit(lambda m: m["recipe"]["layout"].update(row_group_bytes=5), reseal=True),
        SHARD,
        "over the recipe's row_group_bytes",
    ),
    "plan rewritten": (rewrite("plan.parquet", reowned), "plan.parquet", "plan digest"),
    "client table rewritten": (rewrite("clients.parquet", more_rows), SHARD.replace("3", "0"), "says otherwise"),
}


def test_a_whole_dataset_passes(sample_build: Path) -> None:
    seen: list[tuple[int, int]] = []
    built, problems = verify(sample_build, lambda done, total: seen.append((done, total)))
    assert problems == []
    assert seen[-1][0] == seen[-1][1] == sum(f.bytes for f in manifest.files(built))
    assert verify(sample_build / "manifest.json")[1] == []


@pytest.mark.parametrize("case", CASES)
def test_damage_is_named(case: str, dataset: Path) -> None:
    damage, file, words = CASES[case]
    damage(dataset)
    problems = verify(dataset)[1]
    assert any(p.file == file and words in p.words for p in problems), problems


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../x", "leaves"),
        ("/etc/passwd", "leaves"),
        ("a\\..\\b", "leaves"),
        ("C:x", "leaves"),
        ("", "leaves"),
        ("out", "a link"),
    ],
)
def test_paths_stay_in_the_folder(path: str, words: str, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (dataset / "out").symlink_to(tmp_path / "secret")
    edit(lambda m: m["subsets"]["fed-ucmerced"]["shards"][0].update(path=path))(dataset)
    with pytest.raises(ManifestError, match=words):
        verify(dataset)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(fedkit=3), "newer than this fedkit"),
        (lambda m: m.pop("plan"), "'plan' is missing"),
        (lambda m: m.update(extra=1), "unknown key 'extra'"),
        (lambda m: m["subsets"]["fed-ucmerced"].update(clients="ten"), "should be a whole number"),
        (lambda m: m["subsets"]["fed-ucmerced"].update(classes=[], train_counts=[]), "0 numbers for 0 classes"),
        (lambda m: m["subsets"]["fed-ucmerced"]["train_counts"].pop(), "20 numbers for 21 classes"),
    ],
)
def test_manifests_that_are_none(change: Callable[[dict], None], words: str, dataset: Path) -> None:
    edit(change)(dataset)
    with pytest.raises(ManifestError, match=words):
        verify(dataset)


def test_a_recipe_is_not_a_manifest() -> None:
    from fedrsic_data import recipes

    with pytest.raises(ManifestError, match="not a built dataset; run: fedkit build"):
        verify(recipes.shipped()["fed-rsic"])


@pytest.mark.skipif(os.name == "nt", reason="has no pipes with names")
def test_pipes_and_devices_are_never_read(dataset: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / ("n" * 300)):
        for look in (verify, fedrsic_data.open):
            with pytest.raises(ManifestError, match=r"give a manifest.json or its folder"):
                look(path)
    with pytest.raises(ManifestError, match=r"give a manifest.json or its folder"):
        verify(Path("a\0b"))
    with pytest.raises(UsageError, match="should be a path"):
        fedrsic_data.open(Path("a\0b"))
    for name in (SHARD, "clients.parquet"):
        (dataset / name).unlink()
        os.mkfifo(dataset / name)
    assert {problem.file for problem in verify(dataset)[1]} == {SHARD, "clients.parquet"}
    with pytest.raises(ManifestError, match=r"clients.parquet: cannot be read .no such file"):
        fedrsic_data.open(dataset).client_table  # noqa: B018


def uncountable(name: str, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        values = [value, *table.column(name).to_pylist()[1:]]
        return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))

    return change


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("labels", [99]), ("labels", [-1]), ("labels", None), ("counts", [-1]), ("counts", [1] * 50)),
        *(("domains", [None]), ("row_group", None), ("row_groups", None), ("row_group", -1)),
    ],
)
def test_client_tables_that_agree_and_lie(name: str, value: object, dataset: Path) -> None:
    rewrite("clients.parquet", uncountable(name, value))(dataset)
    assert "clients.parquet" in {problem.file for problem in verify(dataset)[1]}
    with pytest.raises(ManifestError, match=r"clients.parquet: does not match"):
        fedrsic_data.open(dataset).subset("fed-ucmerced").client_table  # noqa: B018


@pytest.mark.parametrize(("name", "value"), [("domain_counts", [2**40]), ("domains", ["moon"])])
def test_domains_are_counted_from_the_plan(name: str, value: object, dataset: Path) -> None:
    rewrite("clients.parquet", uncountable(name, value))(dataset)
    assert [problem.words for problem in verify(dataset)[1]] == [
        "does not count what the plan gives the clients of fed-ucmerced"
    ]


@pytest.mark.parametrize(("name", "value"), [("labels", ["moon"]), ("labels", None), ("domain", None)])
def test_plans_that_lie_are_one_line_to_readers(name: str, value: object, dataset: Path) -> None:
    rewrite("plan.parquet", uncountable(name, value))(dataset)
    assert "plan.parquet" in {problem.file for problem in verify(dataset)[1]}
    with pytest.raises(ManifestError, match=r"plan.parquet: does not match"):
        fedrsic_data.open(dataset).subset("fed-ucmerced").plan  # noqa: B018


def test_labels_beyond_the_classes(dataset: Path) -> None:
    def beyond(table: pa.Table) -> pa.Table:
        return table.set_column(1, table.schema.field("label"), pa.array([99] * table.num_rows, pa.int64()))

    rewrite(SHARD, beyond)(dataset)
    assert [problem.file for problem in verify(dataset)[1]] == ["fed-ucmerced"]


@pytest.mark.parametrize(
    "lie",
    [
        *({"rows": {}}, {"rows": {"train": 1, "more": 1}}),
        *({"skew": {"x": {}}}, {"skew": {"x": {"value": 1.0, "iid_low": 0.0}}}),
    ],
)
def test_manifests_that_lie_are_one_line_to_readers(lie: dict, dataset: Path) -> None:
    edit(lambda m: m["subsets"]["fed-ucmerced"].update(lie), reseal=True)(dataset)
    assert verify(dataset)[1]
    with pytest.raises(ManifestError, match="run: fedkit verify"):
        fedrsic_data.open(dataset).subset("fed-ucmerced").client_table  # noqa: B018


def lie(**fields: object) -> Callable[[Path], None]:
    """Says something else of the subset, in a manifest whose digests agree."""
    return edit(lambda m: m["subsets"]["fed-ucmerced"].update(fields), reseal=True)


def recipe_lie(**fields: object) -> Callable[[Path], None]:
    """Shows another recipe, in a manifest whose digests agree."""
    return edit(lambda m: m["recipe"].update(fields), reseal=True)


def owned(folder: Path) -> dict:
    """A row of the plan."""
    return pq.read_table(folder / "plan.parquet").to_pylist()[0]


def skipping(folder: Path) -> None:
    row = owned(folder)
    skip = {"sample_id": row["sample_id"], "client_id": "client-0000", "split": "train", "reason": "torn"}
    edit(lambda m: m["recipe"].update(on_bad_image="skip"))(folder)
    lie(skipped=[skip])(folder)


def left(reason: str, count: int = 7, examples: tuple[str, ...] = ()) -> Callable[[Path], None]:
    return lie(left_out=[{"reason": reason, "count": count, "examples": list(examples)}])


UNSHARED = "of a class of ucmerced that not all sources have"
DIRICHLET = {"name": "dirichlet", "clients": 10, "min_size": 1}

LIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "novel classes": (lie(novel=["beach"]), "novel classes are not those of the recipe"),
    "base-to-novel": (recipe_lie(base_to_novel=True), "novel classes are not those of the recipe"),
    "rows moved": (lie(moved=5), "moved is not what the recipe gives"),
    "duplicates": (lie(duplicates=[["a", "b"]]), "duplicates are not groups of images of the plan"),
    "duplicates of nothing": (lie(duplicates=[[]]), "duplicates are not groups of images of the plan"),
    "left out by the draw": (left("given to no client by the partitioner"), "left_out is not what the recipe gives"),
    "left out for shots": (left("beyond 3 shots of its class at its client"), "left_out is not what the recipe gives"),
    "left out of the classes": (left(UNSHARED), "its sources have 126 images, and the plan tells of 133"),
    "left out and none": (left("unreadable", 0), "left_out does not fit the plan: unreadable"),
    "left out by files that are none": (left("unreadable", 3), "left_out does not fit the plan: unreadable"),
    "packed": (recipe_lie(layout={"files": "packed"}), "files of split train are not those of the recipe's layout"),
    "what a source lacks": (
        edit(lambda m: m["sources"]["ucmerced"].update(missing=["all of it"]), reseal=True),
        "missing or counts of source ucmerced tell of files",
    ),
    "images rendered": (recipe_lie(sample={"per_class": 9}), "images of source ucmerced are not as many as the recipe"),
    "skipped": (skipping, "skipped are not images that the plan has so"),
    "its name": (edit(lambda m: m.update(name="mine"), reseal=True), "name is 'mine', and its recipe makes"),
    "its sources": (
        edit(lambda m: m["sources"].update(mine=m["sources"]["ucmerced"]), reseal=True),
        "sources are not those of the recipe",
    ),
    "images of a source": (
        edit(lambda m: m["sources"]["ucmerced"].update(images=100), reseal=True),
        "its sources have 100 images, and the plan tells of 126",
    ),
    "what may be published": (
        edit(lambda m: m["sources"]["ucmerced"].update(redistributable=False), reseal=True),
        "redistributable of source ucmerced is not what is known of it",
    ),
    "a sample called real": (recipe_lie(sample=None), "sample says that the images are real, and images of the plan"),
    "alpha": (recipe_lie(partition={**DIRICHLET, "alpha": 5.0}), "column client_id of the plan is not what the recipe"),
    "another partitioner": (recipe_lie(partition={"name": "iid"}), "column client_id of the plan is not what the rec"),
    "clients": (recipe_lie(partition={**DIRICHLET, "clients": 9}), "clients are not those that the recipe draws"),
    "too many clients": (recipe_lie(partition={**DIRICHLET, "clients": 900}), "the recipe cannot have drawn it"),
    "the seed": (recipe_lie(seed=1), "column client_id of the plan is not what the recipe draws"),
    "the splits": (recipe_lie(splits={"test": 0.3}), "column split of the plan is not what the recipe draws"),
    "names of splits": (recipe_lie(splits={"val": 0.2}), "splits are not those of the recipe"),
    "held out whole": (recipe_lie(split_by="client"), "column split of the plan is not what the recipe draws"),
    "shots": (recipe_lie(shots=1), "left_out is not what the recipe gives"),
}


@pytest.mark.parametrize("case", LIES)
def test_what_a_manifest_says_is_drawn_again_from_its_plan(case: str, dataset: Path) -> None:
    """Its digests agree: somebody made them again."""
    damage, words = LIES[case]
    damage(dataset)
    problems = verify(dataset)[1]
    assert any(p.file == "manifest.json" and words in p.words for p in problems), problems


def test_subsets_that_its_recipe_does_not_make_are_refused_at_once(dataset: Path) -> None:
    edit(lambda m: m["recipe"]["subsets"].update(more={"sources": ["ucmerced"]}))(dataset)
    with pytest.raises(ManifestError, match="its subsets differ from its recipe"):
        verify(dataset)


def test_a_packed_dataset_that_says_it_is_not(tmp_path: Path) -> None:
    built = sampled(tmp_path / "fed", "layout.files=packed").path
    recipe_lie(layout={"files": "client"})(built)
    assert [problem.words for problem in verify(built)[1]] == [
        f"fed-ucmerced: files of split {split} are not those of the recipe's layout" for split in ("train", "test")
    ]


def test_a_real_dataset_called_a_sample(ucmerced: Path, tmp_path: Path) -> None:
    built = make(
        tmp_path / "fed",
        Places(given={"ucmerced": str(ucmerced)}, offline=True),
        subset="fed-ucmerced",
    ).path
    assert verify(built)[1] == []
    recipe_lie(sample={})(built)
    assert any("the images are rendered, and images of the plan are not" in p.words for p in verify(built)[1])


@pytest.mark.parametrize("file", ["plan", "clients", "card"])
def test_sizes_of_files_are_compared_though_their_digests_agree(file: str, dataset: Path) -> None:
    edit(lambda m: m[file].update(bytes=7), reseal=True)(dataset)
    (problem,) = verify(dataset)[1]
    assert problem.words.endswith("bytes, the manifest says 7")


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources in one subset; not to be changed."""
    return sampled(tmp_path_factory.mktemp("domains") / "fed", subset="fed-domains").path


def test_pictures_that_are_said_to_be_one_are_looked_at(domains: Path, tmp_path: Path) -> None:
    built = Path(shutil.copytree(domains, tmp_path / "fed"))
    assert verify(built)[1] == []
    rows = pq.read_table(built / "plan.parquet").to_pylist()
    two = [
        next(row["sample_id"] for row in rows if row["domain"] == domain and row["client_id"])
        for domain in ("sample-optimal31", "sample-ucmerced")
    ]
    edit(lambda m: m["subsets"]["fed-domains"].update(duplicates=[two]), reseal=True)(built)
    assert any("are not one picture" in problem.words for problem in verify(built)[1])


@pytest.mark.parametrize(
    "sets",
    [
        *(["split_by=client"], ["shots=2"], ["base_to_novel=true"], ["splits={}"], ["splits.val=0.1"]),
        *(["min_size=8"], ["layout.files=packed"]),
    ],
    ids=" ".join,
)
def test_what_was_drawn_is_drawn_again(sets: list[str], tmp_path: Path) -> None:
    assert verify(sampled(tmp_path / "fed", *sets).path)[1] == []


def test_the_folder_of_a_site_is_whole_and_says_what_it_is(sample_build: Path, tmp_path: Path) -> None:
    """Its owners were drawn among images that are elsewhere; what was said of the whole is not said of it."""
    sites.split(sample_build, tmp_path / "sites")
    site, notes = tmp_path / "sites/client-0003", []
    assert verify(site, note=notes.append)[1] == []
    own = len(pq.read_table(site / "plan.parquet"))
    assert [note.partition(":")[2] for note in notes] == [
        f" holds {own} of the 126 images of its sources, as the folder of a site does",
        " its owners were drawn among all of these images, and cannot be drawn again from some",
    ]
    assert notes[0] in fedkit("verify", site).stdout
    lie(moved=3)(site)
    assert any("moved is not" in problem.words or "cannot have drawn" in problem.words for problem in verify(site)[1])
