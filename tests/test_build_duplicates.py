"""One picture several times: found whatever holds the files, kept on one side of every split, and said."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import answer, contents, fedkit, tiny_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import fedrsic_data
from fedrsic_data import recipes, sample
from fedrsic_data.answer import Shown
from fedrsic_data.build import pipeline
from fedrsic_data.build.splits import together
from fedrsic_data.build.verify import verify
from fedrsic_data.cli import tables
from fedrsic_data.dataset import manifest, recipe
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.derive import resplit
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.partition import Rows
from fedrsic_data.raw import containers, identical
from fedrsic_data.raw.archives import TarReader, ZipReader
from fedrsic_data.raw.index import Container
from fedrsic_data.settings import encode
from fedrsic_data.sources.locate import Places

CLASSES, EACH, COPIES = ("airport", "beach", "church"), 30, 20


def folder(root: Path, *, suffix: str = ".png", split: bool = False) -> dict[bytes, list[str]]:
    """Ninety pictures in three classes, twenty of them once more in the same class: file -> its sample ids."""
    held = defaultdict(list)
    for c, name in enumerate(CLASSES):
        for i in range(EACH + COPIES // len(CLASSES) + (c < COPIES % len(CLASSES))):
            above = ("test" if i >= EACH or i % 5 == 0 else "train",) if split else ()
            path = root.joinpath(*above, name, f"{i:02d}{suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tiny_image(1000 * c + (i if i < EACH else i - EACH + 3), suffix))
            held[path.read_bytes()].append(f"mine/{path.relative_to(root).as_posix()}")
    return held


def wanted(root: Path, **more: object) -> recipe.Recipe:
    data = {
        "fedkit": 1,
        "name": "mine",
        "sources": {"mine": {"kind": "folder", "path": str(root)}},
        "subsets": {"mine": {"sources": ["mine"]}},
        "splits": {"val": 0.2, "test": 0.3},
        "partition": {"name": "dirichlet", "clients": 5, "min_size": 1},
    }
    return recipes.from_json({**data, **more}, "test")


def made(root: Path, out: Path, **more: object) -> pipeline.Built:
    return pipeline.build(pipeline.prepare(wanted(root, **more), Places(offline=True)), out)


def lines(shown: Shown) -> str:
    """An answer as a person reads it."""
    return "\n".join(str(part) for part in shown.text.renderables)


def rows_of(built: pipeline.Built) -> dict[str, dict[str, str | None]]:
    return {row["sample_id"]: row for row in fedrsic_data.open(built.path).plan.to_pylist()}


def test_identical_pictures_of_one_source_are_in_one_split_whoever_has_them(tmp_path: Path) -> None:
    groups = [ids for ids in folder(tmp_path / "s").values() if len(ids) > 1]
    assert len(groups) == COPIES
    apart = made(tmp_path / "s", tmp_path / "kept", duplicates="keep")
    done = made(tmp_path / "s", tmp_path / "out")
    before, after = rows_of(apart), rows_of(done)
    assert sum(len({before[i]["split"] for i in ids}) > 1 for ids in groups) > 5  # so it was
    assert all(len({after[i]["split"] for i in ids}) == 1 for ids in groups)
    assert any(len({after[i]["client_id"] for i in ids}) > 1 for ids in groups)
    assert {i: row["client_id"] for i, row in before.items()} == {i: row["client_id"] for i, row in after.items()}
    entry = done.manifest.subsets["mine"]
    assert {frozenset(group) for group in entry.duplicates} == {frozenset(ids) for ids in groups}
    assert entry.across == 0
    assert apart.manifest.subsets["mine"].duplicates == ()
    assert all(abs(n - apart.manifest.subsets["mine"].rows[split]) <= 4 for split, n in entry.rows.items())
    assert verify(done.path)[1] == []


def test_they_are_counted_in_the_plan_in_inspect_and_in_the_manifest(tmp_path: Path) -> None:
    folder(tmp_path / "s")
    (tmp_path / "r.json").write_text(json.dumps(encode(wanted(tmp_path / "s"))))
    told = answer(fedkit("build", tmp_path / "r.json", "--dry-run", "--json"))
    facts = told["subsets"]["mine"]
    assert (facts["duplicates"], facts["duplicate_images"], facts["duplicates_across"]) == (20, 40, 0)
    words = "20 pictures are there more than once (40 images); each is kept in one split"
    assert words in lines(tables.planned(pipeline.prepare(wanted(tmp_path / "s"), Places())))
    done = made(tmp_path / "s", tmp_path / "out")
    assert done.manifest.plan.digest == told["plan"]
    shown = tables.inspected(Dataset(done.path), [], 0)
    assert len(shown.data["subsets"]["mine"]["duplicates"]) == 20
    assert words in done.manifest.subsets["mine"].remarks


def test_drop_extra_keeps_one_copy_of_each_and_counts_the_rest(tmp_path: Path) -> None:
    held = folder(tmp_path / "s")
    (tmp_path / "s" / "beach" / "99.png").write_bytes((tmp_path / "s" / "airport" / "00.png").read_bytes())
    done = made(tmp_path / "s", tmp_path / "out", duplicates="drop-extra")
    assert set(rows_of(done)) == {min(ids) for ids in held.values()}
    entry = done.manifest.subsets["mine"]
    assert {left.reason: left.count for left in entry.left_out} == {
        "a copy of a picture that is there": 20,
        "a copy, with other labels, of a picture that is there": 1,
    }
    assert (entry.duplicates, sum(entry.rows.values())) == ((), 90)
    assert verify(done.path)[1] == []


def test_an_error_where_that_is_asked_for(tmp_path: Path) -> None:
    folder(tmp_path / "s")
    words = "subset mine: 20 images occur more than once, e.g. mine/airport/03.png and mine/airport/30.png"
    with pytest.raises(SourceError, match=f"{words}.*drop-extra"):
        made(tmp_path / "s", tmp_path / "out", duplicates="error")
    for path in (tmp_path / "s").rglob("3*.png"):
        path.unlink()
    assert made(tmp_path / "s", tmp_path / "out", duplicates="error").manifest.subsets["mine"].duplicates == ()
    with pytest.raises(UsageError, match=r"duplicates: 'yes' is not one of keep, group, drop-extra, error"):
        wanted(tmp_path, duplicates="yes")


def test_a_client_that_is_held_out_stays_so_and_copies_of_its_pictures_are_left_out(tmp_path: Path) -> None:
    groups = [ids for ids in folder(tmp_path / "s").values() if len(ids) > 1]
    done = made(tmp_path / "s", tmp_path / "out", split_by="client")
    rows = rows_of(done)
    splits = defaultdict(set)
    for row in rows.values():
        if row["client_id"]:
            splits[row["client_id"]].add(row["split"])
    assert all(len(held) == 1 for held in splits.values())
    for ids in groups:
        assert len({rows[i]["split"] for i in ids if rows[i]["client_id"]}) == 1
    [left] = done.manifest.subsets["mine"].left_out
    assert left.reason == "a copy of a picture that is held out with another client or user"
    assert 0 < left.count <= 20


def test_what_the_source_itself_puts_on_both_sides_is_said_and_moved_only_on_request(tmp_path: Path) -> None:
    groups = [ids for ids in folder(tmp_path / "s", split=True).values() if len(ids) > 1]
    own = {"split_by": "source", "splits": {}}
    across = sum(len({i.split("/")[1] for i in ids}) > 1 for ids in groups)
    assert across > 10
    planned = pipeline.prepare(wanted(tmp_path / "s", **own), Places())
    assert f"WARNING: 20 pictures are there more than once (40 images), and {across} of them are in several" in lines(
        tables.planned(planned)
    )
    done = pipeline.build(planned, tmp_path / "out")
    assert all(row["split"] == i.split("/")[1] for i, row in rows_of(done).items())
    assert done.manifest.subsets["mine"].across == across
    assert json.loads((done.path / manifest.NAME).read_text())["subsets"]["mine"]["across"] == across
    assert any(word.startswith("WARNING") for word in done.manifest.subsets["mine"].remarks)
    assert verify(done.path)[1] == []
    once = made(tmp_path / "s", tmp_path / "once", **own, duplicates="drop-extra")
    for ids in groups:
        [kept] = [i for i in ids if i in rows_of(once)]
        assert kept.split("/")[1] == "test"  # what is held out stays whole
    assert once.manifest.subsets["mine"].across == 0


def test_near_duplicates_within_a_source_are_found_on_request(tmp_path: Path) -> None:
    for number in range(12):
        scene = Image.fromarray(sample.render(sample.CLASSES[number], "ucmerced", seed=1, index=0, size=96).pixels)
        target = tmp_path / "s" / f"class-{number % 2}"
        target.mkdir(parents=True, exist_ok=True)
        scene.save(target / f"{number:02d}.png")
        if number < 4:
            scene.resize((80, 80)).save(target / f"{number:02d}-small.jpg", quality=80)
    assert made(tmp_path / "s", tmp_path / "a").manifest.subsets["mine"].duplicates == ()
    done = made(tmp_path / "s", tmp_path / "b", near_duplicates="all")
    expected = {(f"mine/class-{n % 2}/{n:02d}-small.jpg", f"mine/class-{n % 2}/{n:02d}.png") for n in range(4)}
    assert set(done.manifest.subsets["mine"].duplicates) == expected
    rows = rows_of(done)
    assert all(rows[a]["split"] == rows[b]["split"] for a, b in expected)


def test_parquet_has_them_too(tmp_path: Path) -> None:
    held = list(folder(tmp_path / "s").items())
    rows = [(data, CLASSES.index(i.split("/")[1])) for data, ids in held for i in ids]
    images = [{"bytes": data, "path": None} for data, _ in rows]
    table = pa.table({"image": images, "label": [CLASSES[label] for _, label in rows]})
    pq.write_table(table.slice(0, 70), tmp_path / "a.parquet", row_group_size=16)
    (tmp_path / "p").mkdir()
    pq.write_table(table.slice(0, 70), tmp_path / "p" / "0.parquet", row_group_size=16)
    pq.write_table(table.slice(70), tmp_path / "p" / "1.parquet")
    sources = {"mine": {"kind": "hub", "path": str(tmp_path / "p")}}
    entry = made(tmp_path, tmp_path / "out", sources=sources).manifest.subsets["mine"]
    assert sorted(map(len, entry.duplicates)) == [2] * 20


def test_defaults_are_not_in_the_json_so_that_older_digests_stay() -> None:
    assert not {"duplicates", "near_duplicates"} & encode(wanted(Path("x"))).keys()
    other = encode(wanted(Path("x"), duplicates="keep", near_duplicates="all"))
    assert (other["duplicates"], other["near_duplicates"]) == ("keep", "all")
    assert recipes.from_json(other, "test").duplicates == "keep"


def test_splitting_anew_gives_what_a_build_gives_also_where_copies_were_kept(tmp_path: Path) -> None:
    folder(tmp_path / "s")
    grouped = made(tmp_path / "s", tmp_path / "grouped")
    kept = made(tmp_path / "s", tmp_path / "kept", duplicates="keep")  # as fedkit 0.1.0 built it
    for path in (grouped.path, kept.path):
        for more in ({"seed": 7}, {"seed": 7, "duplicates": "drop-extra"}, {"seed": 7, "split_by": "client"}):
            planned = resplit.prepare(path, lambda _, more=more: wanted(tmp_path / "s", **more))
            again = pipeline.build(planned, tmp_path / "again", overwrite=True)
            whole = pipeline.prepare(wanted(tmp_path / "s", **more), Places())
            assert contents(again.path) == contents(pipeline.build(whole, tmp_path / "anew", overwrite=True).path)


def test_only_files_of_one_size_are_looked_into_and_few_of_them_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [900, 900, 900, 1000, 1001, 1002, 900, 0, 0]
    files = [bytes([i]) * size for i, size in enumerate(sizes)]
    files[6] = files[1]
    for i, data in enumerate(files):
        (tmp_path / str(i)).write_bytes(data)
    seen: dict[str, list[str]] = {"peek": [], "read": []}
    for name, told in seen.items():
        real = getattr(containers.FolderContainer, name)
        monkeypatch.setattr(
            containers.FolderContainer,
            name,
            lambda self, keys, real=real, told=told: told.extend(keys) or real(self, keys),
        )
    first = containers.FolderContainer(tmp_path).firsts(pa.chunked_array([[str(i) for i in range(9)]]))
    assert first.tolist() == [0, 1, 2, 3, 4, 5, 1, 7, 8]
    assert seen == {"peek": ["0", "1", "2", "6"], "read": ["1", "6"]}


def holders(root: Path, files: list[bytes]) -> Iterator[tuple[Container, list[str]]]:
    """Everything that can hold files, with the key of each."""
    names = [f"{i:03d}.bin" for i in range(len(files))]
    plain = root / "plain"
    plain.mkdir(parents=True)
    for name, data in zip(names, files, strict=True):
        (plain / name).write_bytes(data)
    yield containers.FolderContainer(plain), names
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(root / f"{method}.zip", "w", method) as archive:
            for name in names:
                archive.write(plain / name, name)
        packed = containers.ArchiveContainer(root / f"{method}.zip", ZipReader(root / f"{method}.zip"))
        yield packed, names
    for mode, ending in (("w", "tar"), ("w:gz", "tar.gz")):
        with tarfile.open(root / f"a.{ending}", mode) as archive:
            for name in names:
                archive.add(plain / name, name)
    yield containers.ArchiveContainer(root / "a.tar", TarReader(root / "a.tar")), names
    half = [f"{i % 2}/{name}" for i, name in enumerate(names)]
    yield containers.LayeredContainer([containers.FolderContainer(plain), packed]), half
    numbers = [str(i) for i in range(len(files))]
    yield containers.TarGzContainer([root / "a.tar.gz"], pa.array(names), ""), numbers
    pq.write_table(pa.table({"image": pa.array(files, pa.binary())}), root / "a.parquet", row_group_size=7)
    yield containers.ParquetContainer([root / "a.parquet"]), numbers


@pytest.mark.parametrize("count", [1, 60])
def test_identical_files_are_found_in_whatever_holds_them(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    made_of = [rng.integers(0, 256, size, np.uint8).tobytes() for size in (1, 40, 40, 300, 5000, 5000, 5000)]
    made_of.append(made_of[-1][:-1] + b"x")  # which a look at the middle cannot tell from it
    files = [made_of[rng.integers(len(made_of))] for _ in range(count)]
    for holder, keys in holders(tmp_path, files):
        first = holder.firsts(pa.chunked_array([keys], pa.string()))
        assert first.tolist() == [files.index(data) for data in files], holder
        turned = holder.firsts(pa.chunked_array([keys[::-1]], pa.string()))
        assert turned.tolist() == [files[::-1].index(data) for data in files[::-1]], holder


def test_no_files_and_empty_ones_have_no_copies() -> None:
    assert identical.firsts_of(identical.digests([])).tolist() == []
    assert identical.firsts_of(identical.digests([b"", b"a", b"", b"a"])).tolist() == [0, 1, 2, 1]
    assert identical.firsts(containers.FolderContainer(Path()), pa.chunked_array([[]], pa.string())).tolist() == []


def slowly(split: np.ndarray, owner: np.ndarray, rows: Rows, groups: list[np.ndarray]) -> np.ndarray:
    """``together`` as it is written down, a scan of all rows for every row that moves."""
    split, free = split.copy(), np.ones(len(rows), bool)
    for group in groups:
        free[group] = False
    for group in groups:
        for row in group[1:][split[group[1:]] != split[group[0]]]:
            alike = free & (split == split[group[0]]) & (owner == owner[row]) & (rows.labels == rows.labels[row])
            if alike.any():
                split[np.flatnonzero(alike)[0]] = split[row]
            split[row] = split[group[0]]
    return split


@given(n=st.integers(2, 80), classes=st.integers(1, 4), clients=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_groups_are_put_together_as_by_scanning_all_rows(n: int, classes: int, clients: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = Rows.single(rng.integers(0, classes, n), classes)
    owner, split = rng.integers(-1, clients, n).astype(np.int32), rng.integers(0, 3, n).astype(np.int8)
    cuts = np.unique(rng.integers(0, n, 8))
    groups = [np.sort(part) for part in np.split(rng.permutation(n), cuts)[1:] if len(part) > 1]
    assert together(split, owner, rows, groups).tolist() == slowly(split, owner, rows, groups).tolist()
