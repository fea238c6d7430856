"""Nothing is trained on that was not compared with the manifest: shards, client table and plan, here and on the Hub."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import fedkit, refused, sampled
from damage import rewrite, swap
from hub_users import around, commands, python
from hubserver import Hub
from PIL import Image

import fedrsic_data
from fedrsic_data.build.shards import parquet_writer
from fedrsic_data.dataset import manifest, schema
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.errors import ManifestError
from fedtrain import resolve, run

TRAIN = "fed-ucmerced/train"


def blackened(path: Path) -> None:
    """Replaces every image of a shard by one of as many bytes; its rows, labels and row groups stay."""
    black = io.BytesIO()
    Image.new("RGB", (32, 32)).save(black, "PNG")
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(group) for group in range(file.metadata.num_row_groups)]
    with parquet_writer(path, groups[0].schema) as writer:
        for table in groups:
            images = table.column("image").to_pylist()
            images = [{**image, "bytes": black.getvalue().ljust(len(image["bytes"]), b"\0")} for image in images]
            column = pa.array(images, table.schema.field("image").type)
            writer.write_table(table.set_column(table.schema.get_field_index("image"), "image", column))


def blacken_all(folder: Path) -> None:
    for path in folder.glob("fed-ucmerced/*/*.parquet"):
        blackened(path)


def test_training_over_the_hub_takes_no_replaced_images_and_keeps_what_it_proved(
    sample_build: Path, hub: Hub, tmp_path: Path
) -> None:
    """The features of replaced images would else be given to later runs on the true dataset."""
    (tmp_path / "fed").mkdir()
    copy = Path(shutil.copytree(sample_build, tmp_path / "fed/copy"))
    blacken_all(copy)
    hub.adopt("me/false", copy)
    hub.adopt("me/true", sample_build)
    train = ("train", "zeroshot", "--set", "device=cpu", "--json", "--manifest")
    replaced, true, again, here = commands(
        around(hub, tmp_path),
        ((*train, "hf://me/false", "--out", tmp_path / "false"), {}),
        ((*train, "hf://me/true", "--out", tmp_path / "true"), {}),
        ((*train, "hf://me/true", "--out", tmp_path / "again", "--seed", "1"), {}),
        ((*train, sample_build, "--out", tmp_path / "here"), {"FEDKIT_CACHE": str(tmp_path / "other")}),
    )
    assert replaced.returncode == 1
    assert "client-0000.parquet does not match its manifest; publish the dataset again" in replaced.stderr
    assert not (tmp_path / "false/result.json").exists()
    figures = [json.loads(done.stdout)["runs"][0]["figures"] for done in (true, here)]
    assert figures[0] == figures[1]
    shards = [shard for shard in manifest.shards(manifest.load(sample_build)) if shard.split == "test"]
    kept = {path.name for path in (tmp_path / "cache/shards").iterdir()}
    assert kept == {f"{shard.sha256}.parquet" for shard in shards}
    assert again.returncode == 0, again.stderr
    whole = sum(shard.bytes for shard in shards)
    assert hub.sent("me/true/resolve/.*fed-ucmerced") == whole, "each shard once, the second run none"


def test_a_kept_shard_that_changed_is_fetched_again(sample_build: Path, hub: Hub, tmp_path: Path) -> None:
    hub.adopt("me/fed", sample_build)
    shard = manifest.shards(manifest.load(sample_build))[0]
    kept = tmp_path / "cache/shards" / f"{shard.sha256}.parquet"
    code = (
        "import fedrsic_data\n"
        "client = fedrsic_data.open('hf://me/fed', proved=True).subset('fed-ucmerced').client('client-0000')\n"
        "print(client.read('train', ['label']).num_rows)"
    )
    rows = python(code, around(hub, tmp_path))
    blackened(kept)
    assert python(code, around(hub, tmp_path)) == rows
    assert kept.read_bytes() == (sample_build / shard.path).read_bytes()


def test_a_client_of_a_packed_shard_is_proved_where_proof_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    """By range it is the Hub's word that the file is the manifest's; whole, it is the bytes themselves."""
    built = sampled(tmp_path / "fed", "layout.files=packed").path
    code = (
        "import fedrsic_data\nfrom fedrsic_data.errors import ManifestError\n"
        "for name, proved in (('fed', False), ('fed', True), ('other', False)):\n"
        "    data = fedrsic_data.open(f'hf://me/{name}', proved=proved)\n"
        "    try: print(data.subset('fed-ucmerced').client('client-0003').read('train').num_rows)\n"
        "    except ManifestError as error: print(error)"
    )
    hub.adopt("me/fed", built)
    blacken_all(built)
    hub.adopt("me/other", built)  # a Hub that says what it holds: another file than the manifest's
    by_range, whole, told = python(code, around(hub, tmp_path)).splitlines()
    assert by_range.isdecimal()
    for line in (whole, told):
        assert "fed-ucmerced/train/train-00000-of-00001.parquet does not match its manifest" in line


def exchanged(column: str, split: str, other: str, client: str = "client-0004") -> Callable[[pa.Table], pa.Table]:
    """Gives one client of a split the file of another, or of another split."""

    def change(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        at = {(row["client_id"], row["split"]): row for row in rows}
        one, two = at["client-0003", split], at[client, other]
        one[column], two[column] = two[column], one[column]
        return pa.Table.from_pylist(rows, schema=table.schema)

    return change


TABLES: dict[str, tuple[str, Callable[[pa.Table], pa.Table]]] = {
    "files of two clients swapped": ("clients.parquet", exchanged("file", "train", "train")),
    "test rows that point at training files": (
        "clients.parquet",
        exchanged("file", "test", "train", "client-0003"),
    ),
    "images given to other clients": ("plan.parquet", lambda table: table.slice(0, table.num_rows - 1)),
}


@pytest.mark.parametrize("case", TABLES)
def test_training_here_takes_no_changed_tables(case: str, dataset: Path) -> None:
    name, change = TABLES[case]
    pq.write_table(change(pq.read_table(dataset / name)), dataset / name)
    data = fedrsic_data.open(dataset)
    with pytest.raises(ManifestError, match=rf"{name}: does not match the manifest; run: fedkit verify"):
        data.client_table if name.startswith("clients") else data.plan


def test_a_changed_client_table_is_one_line_to_a_person_who_trains(dataset: Path, tmp_path: Path) -> None:
    name, change = TABLES["files of two clients swapped"]
    pq.write_table(change(pq.read_table(dataset / name)), dataset / name)
    done = fedkit("train", "zeroshot", "--manifest", dataset, "--out", tmp_path / "run")
    refused(done, "clients.parquet: does not match the manifest; run: fedkit verify", codes=(1,))
    assert not (tmp_path / "run").exists()


def test_test_rows_in_training_files_are_refused_though_the_digests_agree(dataset: Path) -> None:
    rewrite("clients.parquet", TABLES["test rows that point at training files"][1])(dataset)
    with pytest.raises(ManifestError, match=r"clients.parquet: does not match the manifest's entry"):
        fedrsic_data.open(dataset).subset("fed-ucmerced").client_table  # noqa: B018


def column(name: str, change: Callable[[list[str]], list[str | None]]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        values = pa.array(change(table.column(name).to_pylist()), table.schema.field(name).type)
        return table.set_column(table.schema.get_field_index(name), name, values)

    return changed


def renamed(one: str, other: str) -> Callable[[list[str]], list[str | None]]:
    """Two values change places."""
    return lambda values: [{one: other, other: one}.get(value, value) for value in values]


SHARD = f"{TRAIN}/client-0003.parquet"
LIES: dict[str, tuple[str, Callable[[pa.Table], pa.Table], str]] = {
    "owners swapped": ("plan.parquet", column("client_id", renamed("client-0003", "client-0004")), "other images"),
    "splits swapped": ("plan.parquet", column("split", renamed("train", "test")), "other images"),
    "owned by nobody": ("plan.parquet", column("client_id", lambda values: [None] * len(values)), "other images"),
    "an empty plan": ("plan.parquet", lambda table: table.slice(0, 0), "other images"),
    "a shard of another client": (SHARD, column("client_id", lambda v: ["client-0004"] * len(v)), "where the client"),
    "another image": (SHARD, column("sample_id", lambda v: ["sample-ucmerced/beach/0", *v[1:]]), "other images"),
    "an image twice": (SHARD, column("sample_id", lambda v: [v[1], *v[1:]]), "other images"),
}


@pytest.mark.parametrize("case", LIES)
def test_training_takes_no_shard_that_plan_and_client_table_do_not_tell_of(case: str, dataset: Path) -> None:
    """Their digests agree: somebody made them again."""
    name, change, words = LIES[case]
    rewrite(name, change)(dataset)
    if name == "plan.parquet":
        held = manifest.load(dataset)
        table = pq.read_table(dataset / name)
        plan = replace(held.plan, digest=schema.content_digest(table), rows=table.num_rows)
        (dataset / manifest.NAME).write_text(manifest.dumps(manifest.sealed(replace(held, plan=plan))))
    (config,) = run.configs("zeroshot", dataset, [], ["device=cpu"])
    _, subset, _ = resolve.prepared(config)
    with pytest.raises(ManifestError, match=rf"{SHARD}: .*{words}.*; run: fedkit verify"):
        subset.client("client-0003").read("train", ["label"])


def test_a_client_in_the_row_groups_of_another_is_not_trained_on(tmp_path: Path) -> None:
    built = sampled(tmp_path / "fed", "layout.files=packed").path
    rows = pq.read_table(built / "clients.parquet").to_pylist()
    one, other = (row for row in rows if row["split"] == "train" and row["client_id"] in ("client-0003", "client-0004"))
    for name in ("row_group", "rows"):
        one[name], other[name] = other[name], one[name]
    rewrite("clients.parquet", lambda table: pa.Table.from_pylist(rows, schema=table.schema))(built)
    subset = Dataset(built, proved=True).subset("fed-ucmerced")
    with pytest.raises(ManifestError, match="does not hold client-0003 where the client table says"):
        subset.read("train", ["label"])


@pytest.mark.parametrize("sets", [["layout.files=packed"], ["duplicates=drop-extra", "shots=2"]], ids=" ".join)
def test_what_was_built_is_what_plan_and_client_table_say(sets: list[str], tmp_path: Path) -> None:
    subset = Dataset(sampled(tmp_path / "fed", *sets).path, proved=True).subset("fed-ucmerced")
    assert [subset.read(split, ["label"]).num_rows for split in subset.splits] == list(subset.entry.rows.values())


def test_whatever_training_reads_is_proved(dataset: Path) -> None:
    """Also one column of one client, whatever method reads it."""
    (config,) = run.configs("zeroshot", dataset, [], ["device=cpu"])
    swap(dataset / TRAIN / "client-0003.parquet", dataset / TRAIN / "client-0004.parquet")
    _, subset, _ = resolve.prepared(config)
    with pytest.raises(ManifestError, match=r"client-0003.parquet: does not match the manifest"):
        subset.client("client-0003").read("train", ["label"])
    assert subset.client("client-0002").read("train", ["label"]).num_rows


def test_images_of_a_file_that_is_read_whole_are_proved(dataset: Path) -> None:
    """Without being asked: the file is read anyway."""
    blacken_all(dataset)
    subset = Dataset(dataset).subset("fed-ucmerced")
    for read in (subset.client("client-0003").read, subset.read):
        with pytest.raises(ManifestError, match=r"parquet: does not match the manifest; run: fedkit verify"):
            read("train")


@pytest.mark.parametrize("name", ["plan.parquet", "clients.parquet"])
def test_a_table_that_a_method_does_not_read_is_proved_all_the_same(name: str, dataset: Path, tmp_path: Path) -> None:
    data = bytearray((dataset / name).read_bytes())
    data[len(data) // 2] ^= 1
    (dataset / name).write_bytes(data)
    done = fedkit("train", "zeroshot", "--manifest", dataset, "--set", "clip=tiny", "--out", tmp_path / "run")
    refused(done, name, "does not match the manifest", codes=(1,))
    assert not (tmp_path / "run").exists()
