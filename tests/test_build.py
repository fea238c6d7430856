"""Builds: every image once, bytes as they are, the same recipe the same bytes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import contents, make, mirrored, sampled, tiny_image, write_ucmerced

import fedrsic_data
from fedrsic_data import interrupts, recipes
from fedrsic_data.build import pipeline, shards
from fedrsic_data.build.engines import threads
from fedrsic_data.build.verify import verify
from fedrsic_data.dataset import manifest, recipe, schema
from fedrsic_data.errors import BadImageError, OutputError, UsageError
from fedrsic_data.sources.locate import Places


def here(path: Path) -> Places:
    return Places(folder=path, offline=True)


def prepared(places: Places) -> pipeline.Planned:
    data = recipes.override(recipes.load("fed-rsic"), subsets=["fed-ucmerced"])
    return pipeline.prepare(recipes.from_json(data, "test"), places)


def test_every_image_once_with_its_own_bytes(ucmerced: Path, tmp_path: Path) -> None:
    done = make(tmp_path / "out", here(ucmerced))
    subset = fedrsic_data.open(done.path).subset("fed-ucmerced")
    rows = [row for split in subset.splits for row in subset.read(split).to_pylist()]
    ours = {row["image"]["path"]: hashlib.sha256(row["image"]["bytes"]).digest() for row in rows}
    theirs = {p.name: hashlib.sha256(p.read_bytes()).digest() for p in ucmerced.rglob("*.tif")}
    assert len(rows) == 2100
    assert ours == theirs
    assert subset.entry.rows == {"train": 1680, "test": 420}
    assert len(subset.classes) == 21
    assert len(subset.clients) == 10
    for row in rows[::97]:  # paired with its own label
        assert row["image"]["path"].startswith(subset.classes[row["label"]].replace("_", "").rstrip("s"))
    assert verify(done.path)[1] == []


def test_the_same_bytes_elsewhere_and_from_files_listed_in_another_order(ucmerced: Path, tmp_path: Path) -> None:
    first = make(tmp_path / "a", here(ucmerced))
    shuffled = tmp_path / "shuffled" / "UCMerced_LandUse" / "Images"
    files = sorted(ucmerced.rglob("*.tif"), key=lambda p: hashlib.md5(p.name.encode()).digest())
    for file in files:  # created in another order, which is the order many file systems list
        (shuffled / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, shuffled / file.parent.name / file.name)
    second = make(tmp_path / "deep" / "b", here(tmp_path / "shuffled"))
    assert contents(first.path) == contents(second.path)


def test_order_of_listing_really_does_not_matter(
    ucmerced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(tmp_path / "a", here(ucmerced))
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: str = ".") -> None:
            self.entries = sorted(scandir(path), key=lambda e: e.name, reverse=True)

        def __iter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self.entries)

        def __enter__(self) -> Backwards:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert contents(make(tmp_path / "b", here(ucmerced)).path) == contents(first.path)


@pytest.mark.parametrize("change", ["alpha=0.1", "seed=1", "clients=9", "splits.test=0.3"])
def test_a_changed_recipe_changes_the_digests(sample_build: Path, change: str, tmp_path: Path) -> None:
    one = fedrsic_data.open(sample_build).manifest
    other = sampled(tmp_path / "out", change).manifest
    assert one.plan.digest != other.plan.digest
    assert one.digest != other.digest


def test_a_changed_label_or_byte_changes_the_digests(tmp_path: Path) -> None:
    root = write_ucmerced(tmp_path / "s")
    first = make(tmp_path / "a", here(root)).manifest
    folder = root / "UCMerced_LandUse" / "Images"
    victim = folder / "beach" / "beach07.tif"
    victim.write_bytes(tiny_image(999_999, ".tif"))
    second = make(tmp_path / "b", here(root)).manifest
    assert second.plan.digest == first.plan.digest
    assert second.digest != first.digest
    differ = [
        a.path for a, b in zip(*(m.subsets["fed-ucmerced"].shards for m in (first, second)), strict=True) if a != b
    ]
    assert len(differ) == 1
    swap = folder / "forest" / "forest07.tif"
    swap.rename(folder / "beach" / "forest07.tif")
    victim.rename(folder / "forest" / "beach07.tif")
    third = make(tmp_path / "c", here(root)).manifest
    assert third.plan.digest != second.plan.digest


def test_zip_parquet_and_folder_give_the_same_shards(ucmerced: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "UCMerced_LandUse"), "zip", ucmerced)
    mirror = mirrored(ucmerced, tmp_path / "mirror")
    one = make(tmp_path / "a", here(ucmerced))
    for form in (archive, mirror):
        other = make(tmp_path / f"from {Path(form).stem}", Places(given={"ucmerced": str(form)}))
        assert contents(one.path) == contents(other.path)


def test_running_again_does_nothing_and_mends_what_is_damaged(tmp_path: Path) -> None:
    out = sampled(tmp_path / "out").path
    before = contents(out)
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = sampled(tmp_path / "out")
    assert again.written == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == stamps
    shards = sorted((out / "fed-ucmerced" / "train").iterdir())
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-100])
    assert sampled(tmp_path / "out").written == 2
    assert contents(out) == before


def test_another_dataset_is_not_replaced_unasked(tmp_path: Path) -> None:
    out = sampled(tmp_path / "out").path
    before = contents(out)
    with pytest.raises(OutputError, match="partition.alpha is 0.5 there, 0.1 here.*--overwrite"):
        sampled(out, "alpha=0.1")
    assert contents(out) == before
    data = recipes.override(
        recipes.load("fed-rsic"), subsets=["fed-ucmerced"], sample=True, sets=["sample.per_class=4"]
    )
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places())
    pipeline.build(planned, out, overwrite=True)
    assert verify(out)[1] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="holds no fedkit dataset"):
        sampled(tmp_path / "out")
    (tmp_path / "new.incomplete").mkdir()
    (tmp_path / "new.incomplete" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="no build creates"):
        sampled(tmp_path / "new")
    assert (tmp_path / "new.incomplete" / "thesis.tex").read_text() == "precious"


def test_sources_that_changed_under_a_finished_build(ucmerced: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ucmerced, tmp_path / "s"))
    make(tmp_path / "out", here(copy))
    victim = next(copy.rglob("*.tif"))
    victim.write_bytes(tiny_image(77_777, ".tif"))
    with pytest.raises(OutputError, match="sources changed"):
        make(tmp_path / "out", here(copy))


def test_sources_with_times_ahead_of_the_clock_stand_and_can_be_replaced(ucmerced: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ucmerced, tmp_path / "s"))
    ahead = time.time() + 10 * 365 * 86400
    for path in copy.rglob("*.tif"):
        os.utime(path, (ahead, ahead))
    whole = contents(make(tmp_path / "out", here(copy)).path)
    assert make(tmp_path / "out", here(copy)).written == 0
    pipeline.build(prepared(here(copy)), tmp_path / "out", overwrite=True)
    assert make(tmp_path / "out", here(copy)).written == 0
    assert contents(tmp_path / "out") == whole


def test_a_dataset_that_no_build_remembers_stands_if_the_sources_give_its_bytes(ucmerced: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ucmerced, tmp_path / "s"))
    out = make(tmp_path / "out", here(copy)).path
    whole = contents(out)
    shutil.rmtree(os.environ["FEDKIT_CACHE"])  # as after a build of fedkit 0.1.0, or on another machine
    assert make(out, here(copy)).written == 0
    for path in copy.rglob("*.tif"):  # copied there again: other times, the same bytes
        path.touch()
    assert make(out, here(copy)).written == 0
    assert contents(out) == whole
    assert [path.name for path in out.parent.iterdir() if path.name.startswith("out.")] == []


def test_other_bytes_of_the_same_size_and_time_are_noticed(ucmerced: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ucmerced, tmp_path / "s"))
    out = make(tmp_path / "out", here(copy)).path
    victim = next(copy.rglob("*.tif"))
    stat = victim.stat()
    victim.write_bytes(tiny_image(77_777, ".tif"))
    assert victim.stat().st_size == stat.st_size
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(OutputError, match="sources changed after it was built.*--overwrite"):
            make(out, here(copy))
        shutil.rmtree(os.environ["FEDKIT_CACHE"], ignore_errors=True)
    assert [path.name for path in out.parent.iterdir() if path.name.startswith("out.")] == []
    pipeline.build(prepared(here(copy)), out, overwrite=True)
    assert make(out, here(copy)).written == 0
    assert verify(out)[1] == []


def interrupted(out: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] = KeyboardInterrupt) -> None:
    """A build that Control-C ends after seven shards; other code may make another error of it."""
    write, count = pipeline.shards.write, iter(range(100))

    def until(*args: object, **options: object) -> object:
        if next(count) == 7:
            patch.setattr(interrupts, "asked", lambda: signal.SIGINT)
            raise error
        return write(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(threads, "_WORKERS", 1)
        patch.setattr(pipeline.shards, "write", until)
        with pytest.raises(error):
            sampled(out)
    assert not out.exists()
    assert out.with_name(f"{out.name}.incomplete").is_dir()


@pytest.mark.parametrize("error", [KeyboardInterrupt, AttributeError])
def test_an_interrupted_build_keeps_finished_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    whole = contents(sampled(tmp_path / "whole").path)
    interrupted(tmp_path / "out", monkeypatch, error)
    done = sampled(tmp_path / "out")
    assert 0 < done.written < 20
    assert contents(done.path) == whole
    assert not (tmp_path / "out.incomplete").exists()


def test_an_interrupted_build_of_something_else_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path / "out", monkeypatch)
    done = sampled(tmp_path / "out", "alpha=5.0")
    assert done.written == len(done.manifest.subsets["fed-ucmerced"].shards)
    assert verify(done.path)[1] == []
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "name", ["thesis.tex", "data/thesis.tex", "data/fed-ucmerced/train/mine.parquet", "scratch/x", "old/manifest.json"]
)
def test_what_a_person_put_beside_an_interrupted_build_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    interrupted(tmp_path / "out", monkeypatch)
    mine = tmp_path / "out.incomplete" / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("{}")
    before = contents(tmp_path)
    for sets in ((), ("alpha=5.0",)):
        with pytest.raises(OutputError, match=mine.name if "old" not in name else "old"):
            sampled(tmp_path / "out", *sets)
        assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "words", ["{}", '{"fedkit": 1}', '{"fedkit": true, "plan": {}}', "<html>", '{"manifest_version": 3}']
)
def test_overwrite_does_not_replace_what_another_wrote(tmp_path: Path, words: str) -> None:
    """Many programs have a manifest.json; only one that is a built dataset's says that fedkit wrote it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(words)
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    before = contents(tmp_path)
    planned = pipeline.prepare(small(), Places(offline=True))
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="choose another --out"):
            pipeline.build(planned, tmp_path / "out", overwrite=overwrite)
        assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["thesis.tex", "fed-ucmerced/train/mine.parquet", "fed-ucmerced/notes/mine", "a/"])
def test_overwrite_does_not_take_a_file_beside_the_dataset_away(tmp_path: Path, name: str) -> None:
    out = sampled(tmp_path / "out").path
    mine = out / name
    mine.parent.mkdir(exist_ok=True)
    mine.mkdir() if name.endswith("/") else mine.write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=f"{re.escape(str(mine))}.*: was not written by fedkit and would be lost"):
        pipeline.build(pipeline.prepare(small(), Places(offline=True)), out, overwrite=True)
    assert contents(tmp_path) == before
    assert mine.exists()


def test_a_card_that_a_person_edited_is_never_lost(tmp_path: Path) -> None:
    out = sampled(tmp_path / "out").path
    card = out / "README.md"
    written = card.read_bytes()
    card.write_bytes(written + b"\nWritten by hand for a week.\n")
    before = contents(tmp_path)
    same, other = (pipeline.prepare(one, Places(offline=True)) for one in (manifest.load(out).recipe, small()))
    for planned, overwrite in ((other, True), (same, True), (same, False)):
        with pytest.raises(OutputError, match=rf"{re.escape(str(card))}: was edited.*; .*move it away"):
            pipeline.build(planned, out, overwrite=overwrite)
        assert contents(tmp_path) == before
    card.rename(tmp_path / "mine.md")
    pipeline.build(same, out, overwrite=True)
    assert card.read_bytes() == written


def test_a_file_that_appears_while_a_dataset_is_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = sampled(tmp_path / "out").path
    before, move = contents(out), os.replace

    def moving(source: Path, target: Path) -> None:
        if Path(source) == out:
            (out / "thesis.tex").write_text("precious")
        move(source, target)

    monkeypatch.setattr(os, "replace", moving)
    with pytest.raises(OutputError, match="thesis.tex: was not written by fedkit and would be lost"):
        pipeline.build(pipeline.prepare(small(), Places(offline=True)), out, overwrite=True)
    assert contents(out) == before | {"thesis.tex": b"precious"}


def small() -> recipe.Recipe:
    sets = ["sample.per_class=2", "sample.size=32", "clients=2"]
    data = recipes.override(recipes.load("fed-rsic"), subsets=["fed-ucmerced"], sample=True, sets=sets)
    return recipes.from_json(data, "test")


def test_bad_images_stop_the_build_or_are_listed(ucmerced: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ucmerced, tmp_path / "s"))
    victim = copy / "UCMerced_LandUse" / "Images" / "beach" / "beach07.tif"
    victim.write_bytes(victim.read_bytes()[:50])
    with pytest.raises(BadImageError, match=str(victim)):
        make(tmp_path / "out", here(copy))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]
    done = make(tmp_path / "out", here(copy), sets=["on_bad_image=skip"])
    entry = done.manifest.subsets["fed-ucmerced"]
    assert [skip.sample_id for skip in entry.skipped] == ["ucmerced/beach/beach07"]
    assert sum(entry.rows.values()) == 2099
    assert verify(done.path)[1] == []


def test_row_groups_never_hold_two_clients_in_either_layout(tmp_path: Path) -> None:
    for files in ("client", "packed"):
        sets = [f"layout.files={files}", "clients=20", "layout.row_group_bytes=4000", "layout.shard_bytes=30000"]
        done = sampled(tmp_path / files, *sets)
        shards = done.manifest.subsets["fed-ucmerced"].shards
        owners = [len(done_clients(done.path / shard.path)) for shard in shards]
        assert (max(owners) == 1) == (files == "client")
        assert len(shards) > 4
        for shard in shards:
            file = pq.ParquetFile(done.path / shard.path)
            for group in range(file.num_row_groups):
                assert len(set(file.read_row_group(group, ["client_id"]).column(0).to_pylist())) == 1
        assert verify(done.path)[1] == []


def done_clients(path: Path) -> set[str]:
    return set(pq.read_table(path, columns=["client_id"]).column(0).to_pylist())


def test_hostile_client_names_stay_out_of_paths(sample_build: Path, tmp_path: Path) -> None:
    ids = fedrsic_data.open(sample_build).plan.column("sample_id").to_pylist()
    clients = ["../../up", "a/b", "con", "<script>", "x" * 300, "ŝ"]
    path = tmp_path / "mine.csv"
    lines = [f'"{i}","{clients[n % len(clients)]}"' for n, i in enumerate(ids)]
    path.write_text("sample_id,client_id\n" + "\n".join(lines) + "\n", encoding="utf-8")
    done = sampled(tmp_path / "deep" / "out", f"path={path}", partitioner="assigned")
    subset = fedrsic_data.open(done.path).subset("fed-ucmerced")
    assert sorted(subset.clients) == sorted(clients)
    assert {p.name for p in (done.path / "fed-ucmerced" / "train").iterdir()} == {
        f"client-{k:04d}.parquet" for k in range(6)
    }
    assert subset.client("../../up").read("train").num_rows == subset.client("../../up").rows("train") > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "mine.csv"]
    assert verify(done.path)[1] == []


def test_a_file_of_owners_is_held_to(sample_build: Path, tmp_path: Path) -> None:
    plan = shutil.copy(sample_build / "plan.parquet", tmp_path / "mine.parquet")
    done = sampled(tmp_path / "out", f"path={plan}", partitioner="assigned")
    owners = fedrsic_data.open(sample_build).plan.column("client_id")
    assert fedrsic_data.open(done.path).plan.column("client_id").equals(owners)
    again = recipes.from_json(recipes.load(str(done.path / "manifest.json")), "again")
    assert pipeline.prepare(again, Places()).digest == done.manifest.plan.digest
    shutil.copy(sampled(tmp_path / "other", "seed=5").path / "plan.parquet", plan)
    with pytest.raises(UsageError, match="is not the file with sha256"):
        pipeline.prepare(again, Places())


def test_a_stray_shard_stops_the_next_build(tmp_path: Path) -> None:
    out = sampled(tmp_path / "out").path
    shard = next((out / "fed-ucmerced" / "train").iterdir())
    shutil.copy(shard, shard.with_name("zz.parquet"))
    with pytest.raises(OutputError, match="zz.parquet: is not in the manifest"):
        sampled(out)


def test_packed_and_per_client_hold_the_same_rows(tmp_path: Path) -> None:
    one = fedrsic_data.open(sampled(tmp_path / "a", "layout.files=client").path).subset("fed-ucmerced")
    other = fedrsic_data.open(sampled(tmp_path / "b", "layout.files=packed").path).subset("fed-ucmerced")
    for client in one.clients:
        assert one.client(client).read("train").equals(other.client(client).read("train"))


def test_parquet_options(sample_build: Path) -> None:
    shard = next((sample_build / "fed-ucmerced" / "train").iterdir())
    metadata = pq.ParquetFile(shard).metadata.row_group(0)
    columns = {metadata.column(i).path_in_schema: metadata.column(i) for i in range(metadata.num_columns)}
    image = columns["image.bytes"]
    assert image.compression == "UNCOMPRESSED"
    assert not image.has_dictionary_page
    assert not image.is_stats_set
    assert columns["client_id"].is_stats_set
    assert columns["client_id"].has_offset_index
    assert columns["client_id"].has_column_index


def test_test_rows_follow_a_clients_own_mixture(tmp_path: Path) -> None:
    done = sampled(tmp_path / "out", "sample.per_class=25", "alpha=0.3", "clients=4")
    subset = fedrsic_data.open(done.path).subset("fed-ucmerced")
    for client in map(subset.client, subset.clients):
        train = client.read("train", ["label"]).column(0).value_counts().to_pylist()
        test = {
            row["values"]: row["counts"] for row in client.read("test", ["label"]).column(0).value_counts().to_pylist()
        }
        for row in train:
            whole = row["counts"] + test.get(row["values"], 0)
            assert abs(test.get(row["values"], 0) - 0.2 * whole) < 1


def test_base_to_novel(tmp_path: Path) -> None:
    done = sampled(tmp_path / "out", "base_to_novel=true", "clients=5")
    subset = fedrsic_data.open(done.path).subset("fed-ucmerced")
    assert subset.splits == ("train", "test", "novel")
    assert subset.entry.novel == subset.classes[11:]
    for split in subset.splits:
        labels = set(subset.read(split, ["label"]).column(0).to_pylist())
        assert (min(labels) >= 11) if split == "novel" else (max(labels) < 11)
    assert sum(subset.entry.rows.values()) == 126
    assert verify(done.path)[1] == []


def test_few_shots_are_counted(tmp_path: Path) -> None:
    done = sampled(tmp_path / "out", "shots=2", "clients=2")
    entry = done.manifest.subsets["fed-ucmerced"]
    assert entry.left_out[0].reason == "beyond 2 shots of its class at its client"
    assert sum(entry.rows.values()) + entry.left_out[0].count == 126
    assert verify(done.path)[1] == []


def test_more_clients_than_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"subset fed-ucmerced: clients=500 .* need 500 .* there are 126: 374 too few"):
        sampled(tmp_path / "out", "clients=500")
    assert not list(tmp_path.iterdir())


def test_subsets_may_mix_sources_under_unified_names(ucmerced: Path, optimal31: Path, tmp_path: Path) -> None:
    data = {
        "fedkit": 1,
        "name": "mixed",
        "subsets": {
            "both": {"sources": ["ucmerced", "optimal31"]},
            "own": {"sources": ["ucmerced"], "class_names": "native"},
        },
    }
    places = Places(given={"ucmerced": str(ucmerced), "optimal31": str(optimal31)})
    done = pipeline.build(pipeline.prepare(recipes.from_json(data, "test"), places), tmp_path / "out")
    both = done.manifest.subsets["both"]
    assert len(both.classes) == 21 + 31 - 15
    assert sum(both.rows.values()) == 2100 + 1860
    assert "domain_entropy" in both.skew
    assert "storagetanks" in done.manifest.subsets["own"].classes
    assert verify(done.path)[1] == []
    rows = fedrsic_data.open(done.path).subset("both").read("train", ["label", "domain"]).to_pylist()
    airplane = both.classes.index("airplane")
    assert {row["domain"] for row in rows if row["label"] == airplane} == {"ucmerced", "optimal31"}


def planned_of(*subsets: str, **partition: object) -> pipeline.Planned:
    """A drawn plan of sample images, one label each."""
    data = {
        "fedkit": 1,
        "name": "plan",
        "subsets": {name: {"sources": [name], "class_names": "native"} for name in subsets},
        "sample": {"per_class": 7, "size": 32},
        "partition": {"name": "dirichlet", "clients": 4, **partition},
    }
    return pipeline.prepare(recipes.from_json(data, "test"), Places())


@pytest.mark.parametrize("most", [1, 64, 147, 100_000])
def test_slices_of_a_plan_are_its_table(most: int) -> None:
    planned = planned_of("ucmerced", "optimal31")  # named in another order than they are sorted in
    slices = list(planned.slices(most))
    whole = planned.table
    assert whole.schema == schema.PLAN_SCHEMA
    assert whole.num_rows == planned.rows == sum(len(s.owner) for s in planned.subsets)
    assert pa.concat_tables(slices).combine_chunks().equals(whole)
    assert {len(part) for part in slices[:-1]} <= {most}
    assert whole.column("subset").to_pylist() == sorted(whole.column("subset").to_pylist())
    for subset in planned.subsets:
        mine = whole.filter(np.equal(whole.column("subset").to_numpy(), subset.name))
        assert mine.column("sample_id").to_pylist() == subset.table.column("sample_id").to_pylist()
        assert mine.column("client_id").to_pylist() == [subset.clients[k] for k in subset.owner]
        assert mine.column("split").to_pylist() == [subset.split_names[k] for k in subset.split]
        labels = subset.table.column("labels").to_pylist()
        assert mine.column("labels").to_pylist() == [[subset.classes[c] for c in row] for row in labels]
    assert planned.digest == schema.content_digest(whole) == naive_digest(whole)


def naive_digest(table: pa.Table) -> str:
    """``schema.content_digest`` from Python values, one after another."""
    digest = hashlib.sha256()

    def column(values: list[object], kind: pa.DataType) -> None:
        digest.update(("list" if pa.types.is_list(kind) else str(kind)).encode())
        digest.update(np.packbits(np.array([value is not None for value in values], bool)).tobytes())
        if pa.types.is_list(kind):
            digest.update(np.array([len(value or ()) for value in values], "<i8").tobytes())
            column([item for value in values for item in value or ()], kind.value_type)
        elif pa.types.is_string(kind):
            texts = [(value or "").encode() for value in values]
            digest.update(np.array([len(text) for text in texts], "<i8").tobytes())
            digest.update(b"".join(texts))
        else:
            digest.update(np.array([value or 0 for value in values], "<i8").tobytes())

    for name in table.column_names:
        digest.update(f"{name}:{len(table)};".encode())
        column(table.column(name).to_pylist(), table.schema.field(name).type)
    return digest.hexdigest()


def test_a_content_digest_does_not_depend_on_chunks() -> None:
    table = pa.table(
        {
            "text": pa.array(["a", None, "", "früh", "b" * 300, None, "c"] * 5),
            "texts": pa.array([["x"], [], ["y", None, "zz"], None, ["x", "y"], [], ["w"]] * 5, pa.list_(pa.string())),
            "numbers": pa.array([[1], [2, 3], [], [4, 5, 6], None, [7], [8]] * 5, pa.list_(pa.int32())),
            "number": pa.array([1, None, -3, 2**40, 0, 6, 7] * 5, pa.int64()),
        }
    )
    expected = naive_digest(table)
    assert schema.content_digest(table) == expected
    for size in (1, 3, 8, 34):
        parts = [table.slice(start, size) for start in range(0, len(table), size)]
        assert schema.content_digest(pa.concat_tables(parts)) == expected
        copies = [
            pa.table({name: part.column(name).to_pylist() for name in part.column_names}, part.schema) for part in parts
        ]
        assert schema.content_digest(pa.concat_tables(copies)) == expected
    assert schema.content_digest(table.slice(1)) == naive_digest(table.slice(1)) != expected
    assert schema.content_digest(table.slice(0, 0)) == naive_digest(table.slice(0, 0))


def test_a_buffer_makes_room_and_starts_again() -> None:
    buffer = shards.Buffer(4)
    assert buffer.array().to_pylist() == []
    buffer.extend([b"ab", b""])
    buffer.extend([b"cdefg" * 9, b"h"])
    assert buffer.array().to_pylist() == [b"ab", b"", b"cdefg" * 9, b"h"]
    buffer.clear()
    buffer.extend([b"ij"])
    buffer.extend([])
    assert buffer.array().to_pylist() == [b"ij"]
    buffer.array().validate(full=True)


def test_shards_do_not_depend_on_how_many_images_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sampled(tmp_path / "a", "clients=3")
    monkeypatch.setattr(shards, "_AT_ONCE", 5)
    assert contents(sampled(tmp_path / "b", "clients=3").path) == contents(first.path)
