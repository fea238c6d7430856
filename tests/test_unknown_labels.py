"""Labels of training rows may be unknown: a third state, drawn from the recipe, which no shard takes for a negative."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import ROOT, Command, answer, contents, refused
from damage import edit, rewrite
from PIL import Image

import fedrsic_data
from fedrsic_data.build import annotation
from fedrsic_data.dataset import manifest, recipe, schema, unknown
from fedrsic_data.dataset.flower import ClientPartitioner
from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.errors import ManifestError, UsageError, VerificationError
from fedrsic_data.publish import card, croissant
from fedtrain.config import RunConfig
from fedtrain.data import ImageDataset
from fedtrain.methods import METHODS
from fedtrain.progress import Listener
from fedtrain.resolve import prepared, remark

SMALL = {"sample": {"users": 40, "size": 32}, "clients": 4, "partition": "iid"}
SETTINGS: dict[str, dict[str, Any]] = {
    "entries": {"hidden_labels": {"share": 0.3}},
    "positives": {"hidden_labels": {"share": 0.5, "of": "positives"}},
    "annotated": {"annotated_labels": {"count": 5}},
    "both": {"hidden_labels": {"share": 0.4}, "annotated_labels": {"count": 6, "alpha": 0.5}},
}
BOTH = {"hidden_labels": {"share": 0.2}, "annotated_labels": {"count": 3, "alpha": 0.5}}
NAMES = ("anchor", "buoy", "crane", "dock")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return fedrsic_data.build("voc", tmp_path_factory.mktemp("plain") / "voc", **SMALL)


@pytest.fixture(scope="module", params=SETTINGS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory, kind: str) -> Dataset:
    return fedrsic_data.build("voc", tmp_path_factory.mktemp(kind) / "voc", **SMALL, **SETTINGS[kind])


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return fedrsic_data.build("voc", tmp_path_factory.mktemp("hidden") / "voc", **SMALL, **SETTINGS["entries"])


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    small = {"sample": {"users": 40, "size": 32}}
    return fedrsic_data.build("flair", tmp_path_factory.mktemp("fine") / "b", **small, hidden_labels={"share": 0.5})


def copied(dataset: Dataset, out: Path) -> Path:
    for name, data in contents(dataset.folder).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return out


def states(subset: Subset, split: str) -> dict[str, np.ndarray[Any, Any]]:
    """Each image's labels by its shard: 1 present, 0 absent, -1 unknown."""
    found = {}
    wanted = ["sample_id", "labels", *(["labels_unknown"] if subset.entry.unknown is not None else [])]
    for row in subset.read(split, wanted).to_pylist():
        state = np.zeros(len(subset.classes), int)
        state[row["labels"]] = 1
        assert (state[row.get("labels_unknown", [])] == 0).all(), "no label is both present and unknown"
        state[row.get("labels_unknown", [])] = -1
        found[row["sample_id"]] = state
    return found


def test_shards_say_of_every_label_that_it_is_present_absent_or_unknown(plain: Dataset, masked: Dataset) -> None:
    """Labels that are not unknown are the true ones, at the same clients; held-out rows keep all of theirs."""
    (true,), (told,) = plain, masked
    assert told.clients == true.clients
    assert [told.rows(c, s) for c in told.clients for s in told.splits] == [
        true.rows(c, s) for c in true.clients for s in true.splits
    ]
    train, known = states(true, "train"), states(told, "train")
    assert train.keys() == known.keys()
    for sample, state in known.items():
        assert (state[state >= 0] == train[sample][state >= 0]).all()
    assert any((state < 0).any() for state in known.values())
    for split in told.splits[1:]:
        there, here = states(true, split), states(told, split)
        assert {k: v.tolist() for k, v in here.items()} == {k: v.tolist() for k, v in there.items()}


def test_a_share_of_the_entries_is_hidden_whatever_they_are(plain: Dataset, hidden: Dataset) -> None:
    train, told = states(plain[0], "train"), states(hidden[0], "train")
    true = np.stack([train[sample] for sample in told])
    lost = np.stack(list(told.values())) < 0
    for state in (0, 1):
        cells = lost[true == state]
        assert abs(cells.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(cells))


def test_positives_alone_are_hidden(plain: Dataset, tmp_path: Path) -> None:
    (told,) = fedrsic_data.build("voc", tmp_path / "voc", **SMALL, **SETTINGS["positives"])
    train, known = states(plain[0], "train"), states(told, "train")
    true, lost = np.stack([train[s] for s in known]), np.stack(list(known.values())) < 0
    assert not lost[true == 0].any()
    cells = lost[true == 1]
    assert abs(cells.mean() - 0.5) < 4 * np.sqrt(0.25 / len(cells))


def test_every_client_annotates_as_many_labels_and_every_label_has_a_client(tmp_path: Path) -> None:
    (told,) = fedrsic_data.build("voc", tmp_path / "voc", **SMALL, **SETTINGS["annotated"])
    annotates = []
    for client in told:
        known = client.known("train")
        assert known is not None
        assert (known == known[0]).all(), "the same labels at all rows of a client"
        annotates.append(known[0])
    assert [row.sum() for row in annotates] == [5] * 4
    assert np.ptp(np.sum(annotates, axis=0)) == 1, "17 labels over 4 x 5 places"
    assert np.min(np.sum(annotates, axis=0)) == 1
    assert len({tuple(row) for row in annotates}) > 1


def annotated(settings: recipe.AnnotatedLabels, clients: int = 200, labels: int = 20, seed: int = 0) -> Any:
    """Labels that clients of one row each annotate: bool [clients, labels]."""
    names = [f"client-{k}" for k in range(clients)]
    classes = [f"label-{k}" for k in range(labels)]
    wanted = recipe.Recipe(1, "x", {"x": recipe.SubsetRecipe(("s",))}, seed=seed, annotated_labels=settings)
    none = pa.array([[]] * clients, pa.list_(pa.int32()))
    drawn = annotation.unknown_labels(wanted, "x", none, np.arange(clients, dtype=np.int32), classes, names)
    assert drawn is not None
    return unknown.known(drawn, labels)


def test_alpha_makes_some_labels_more_common() -> None:
    even = annotated(recipe.AnnotatedLabels(5)).sum(axis=0)
    wide = annotated(recipe.AnnotatedLabels(5, alpha=1000.0)).sum(axis=0)
    few = annotated(recipe.AnnotatedLabels(5, alpha=0.05)).sum(axis=0)
    assert (even == 50).all()
    assert abs(wide - 50).max() < 4 * np.sqrt(200 * 0.25 * 0.75)
    assert few.sum() == wide.sum() == 1000
    assert np.sort(few)[-3:].min() > 150
    assert np.sort(few)[:10].max() < 50


@pytest.mark.filterwarnings("error")
def test_the_smallest_alpha_has_all_clients_annotate_the_same_labels() -> None:
    for alpha in (1e-12, 1e-6):
        drawn = annotated(recipe.AnnotatedLabels(10, alpha=alpha), labels=80).sum(axis=0)
        assert np.sort(drawn)[-10:].tolist() == [200] * 10


def test_another_seed_draws_others_and_the_same_the_same() -> None:
    settings = recipe.AnnotatedLabels(5)
    assert (annotated(settings) == annotated(settings)).all()
    assert (annotated(settings) != annotated(settings, seed=1)).any()


def test_labels_may_be_named_for_each_client(plain: Dataset, tmp_path: Path) -> None:
    classes = plain[0].classes
    named = {f"client-000{k}": list(classes[k : k + 3]) for k in range(4)}
    (told,) = fedrsic_data.build("voc", tmp_path / "voc", **SMALL, annotated_labels={"clients": named})
    for client in told:
        known = client.known("train")
        assert known is not None
        assert {told.classes[k] for k in np.flatnonzero(known.all(axis=0))} == set(named[client.id])
        assert (known.any(axis=0) == known.all(axis=0)).all()


def test_no_setting_or_none_hidden_gives_the_bytes_without_them(plain: Dataset, tmp_path: Path) -> None:
    for number, settings in enumerate(({"hidden_labels": None}, {"annotated_labels": None})):
        again = fedrsic_data.build("voc", tmp_path / f"{number}", **SMALL, **settings)
        assert contents(again.folder) == contents(plain.folder)
    assert "hidden_labels" not in (plain.folder / "manifest.json").read_text()
    all_known = ({"hidden_labels": {"share": 0}}, {"annotated_labels": {"count": 17}})
    for number, settings in enumerate(all_known):
        again = fedrsic_data.build("voc", tmp_path / f"all-{number}", **SMALL, **settings)
        assert again.manifest.plan == plain.manifest.plan
        assert again.manifest.subsets == plain.manifest.subsets
        assert again.manifest.fedkit == recipe.SCHEMA


def test_the_same_recipe_gives_the_same_bytes_in_other_processes(masked: Dataset, kind: str, tmp_path: Path) -> None:
    again = fedrsic_data.build("voc", tmp_path / "voc", **SMALL, **SETTINGS[kind], jobs=2)
    assert contents(again.folder) == contents(masked.folder)


def test_packed_shards_hold_the_same_rows(hidden: Dataset, tmp_path: Path) -> None:
    packed = fedrsic_data.build("voc", tmp_path / "v", **SMALL, **SETTINGS["entries"], **{"layout.files": "packed"})
    assert packed.manifest.plan == hidden.manifest.plan
    assert packed[0].read("train").sort_by("sample_id") == hidden[0].read("train").sort_by("sample_id")
    assert fedrsic_data.verify(packed)


def test_a_dataset_with_unknown_labels_is_verified_and_redrawn(masked: Dataset) -> None:
    found = fedrsic_data.verify(masked)
    assert (found.problems, found.notes) == ((), ())


def test_resplitting_hides_and_unhides(plain: Dataset, masked: Dataset, kind: str, tmp_path: Path) -> None:
    """The plan keeps the true labels, so a dataset made of either gives the other to the byte."""
    anew = fedrsic_data.resplit(plain, tmp_path / "hidden", **SETTINGS[kind])
    assert contents(anew.folder) == contents(masked.folder)
    back = fedrsic_data.resplit(masked, tmp_path / "plain", hidden_labels=None, annotated_labels=None)
    assert contents(back.folder) == contents(plain.folder)


def own(folder: Path, labels: np.ndarray[Any, Any], **settings: Any) -> Dataset:
    """A dataset of images with these labels, bool [rows, 4], whose owners and splits do not depend on them."""
    folder.mkdir()
    images = []
    for number in range(len(labels)):
        Image.new("RGB", (8, 8), (number, 9, 9)).save(folder / "x.png")
        images.append({"bytes": (folder / "x.png").read_bytes(), "path": f"{number:03d}.png"})
    lists = [np.flatnonzero(row).tolist() for row in labels]
    features = {
        "image": {"_type": "Image"},
        "labels": {"feature": {"names": list(NAMES), "_type": "ClassLabel"}, "_type": "List"},
    }
    table = pa.table({"image": pa.array(images, schema.IMAGE), "labels": pa.array(lists, pa.list_(pa.int64()))})
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(meta), folder / "own.parquet")
    owners = folder.parent / "owners.csv"
    rows = [f"own/{number:09d},client-{number % 8}" for number in range(len(labels))]
    owners.write_text("\n".join(["sample_id,client_id", *rows, ""]))
    data = {
        "fedkit": 1,
        "name": "own",
        "subsets": {"own": {"sources": ["own"]}},
        "sources": {"own": {"kind": "hub", "path": "own.parquet"}},
        "splits": {"test": 0.25},
        "split_by": "client",
        "partition": {"name": "assigned", "path": str(owners)},
    }
    return fedrsic_data.build(data, folder / "own", sources={"own": str(folder / "own.parquet")}, **settings)


@pytest.mark.parametrize("settings", [{"hidden_labels": {"share": 0.4}}, {"annotated_labels": {"count": 2}}, BOTH])
def test_the_truth_of_an_unknown_label_is_in_the_plan_alone(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Another true value of every hidden label changes the plan's record of it and no other byte but its digests."""
    true = np.random.default_rng(1).random((96, 4)) < 0.4
    first = own(tmp_path / "a", true, **settings)
    other = true.copy()
    order = {sample: i for i, sample in enumerate(sorted(row["sample_id"] for row in first.plan.to_pylist()))}
    changed = 0
    for row in first.plan.to_pylist():
        for name in row["labels_unknown"]:
            other[order[row["sample_id"]], NAMES.index(name)] ^= True
            changed += 1
    assert changed > 50
    second = own(tmp_path / "b", other, **settings)
    here, there = contents(first.folder), contents(second.folder)
    assert here.keys() == there.keys()
    differing = {name for name in here if here[name] != there[name] and not name.startswith(".")}
    assert differing == {"plan.parquet", "manifest.json"}
    assert first.manifest.subsets == second.manifest.subsets
    assert first.plan.drop_columns(["labels_true"]) == second.plan.drop_columns(["labels_true"])
    assert first.plan.column("labels_true") != second.plan.column("labels_true")
    assert first.manifest.plan.digest != second.manifest.plan.digest


def test_the_plan_tells_the_truth_where_something_is_unknown(tmp_path: Path) -> None:
    true = np.random.default_rng(2).random((96, 4)) < 0.4
    data = own(tmp_path / "a", true, hidden_labels={"share": 0.4})
    rows = sorted(data.plan.to_pylist(), key=lambda row: row["sample_id"])
    for row, expected in zip(rows, true, strict=True):
        names = [NAMES[k] for k in np.flatnonzero(expected)]
        if row["labels_unknown"]:
            assert row["split"] == "train"
            assert row["labels_true"] == names
            assert row["labels"] == [name for name in names if name not in row["labels_unknown"]]
        else:
            assert (row["labels"], row["labels_true"]) == (names, None)


def test_fine_labels_are_unknown_with_their_class(fine: Dataset, tmp_path: Path) -> None:
    (true,), (told,) = fedrsic_data.build("flair", tmp_path / "a", sample={"users": 40, "size": 32}), fine
    finer = told.entry.fine
    assert finer is not None
    wanted = ["sample_id", "fine_labels"]
    before = {row["sample_id"]: set(row["fine_labels"]) for row in true.read("train", wanted).to_pylist()}
    lost = 0
    for client in told:
        known = client.known("train")
        assert known is not None
        mask = unknown.known_fine(known, told.entry)
        for row, sees, coarse in zip(client.read("train", wanted).to_pylist(), mask, known, strict=True):
            for label, parent in enumerate(finer.parents):
                assert sees[label] == (parent not in told.classes or coarse[told.classes.index(parent)])
            assert set(row["fine_labels"]) == {label for label in before[row["sample_id"]] if sees[label]}
            lost += len(before[row["sample_id"]]) - len(row["fine_labels"])
    assert lost > 20
    assert fedrsic_data.verify(told.dataset).notes == ()
    assert fedrsic_data.verify(told.dataset)
    back = fedrsic_data.resplit(told.dataset, tmp_path / "c", hidden_labels=None)
    assert contents(back.folder) == contents(true.dataset.folder)


def test_readers_have_the_third_state(hidden: Dataset) -> None:
    (subset,) = hidden
    client = subset[0]
    known = client.known("train")
    assert known is not None
    assert known.shape == (client.rows("train"), 17)
    rows = client.dataset("train")
    assert rows.features["labels_unknown"] == datasets.List(datasets.ClassLabel(names=list(subset.classes)))
    assert [set(row) for row in rows["labels_unknown"]] == [set(np.flatnonzero(~row).tolist()) for row in known]
    assert ClientPartitioner(subset, "train").load_partition(0)["labels_unknown"] == rows["labels_unknown"]
    assert client.known("test") is not None
    assert client.known("test").all()  # type: ignore[union-attr]
    assert subset.unknown is not None
    assert subset.unknown[0].tolist() == (~known).sum(axis=0).tolist()
    assert subset.part([client.id]).unknown.tolist() == [subset.unknown[0].tolist()]  # type: ignore[union-attr]
    assert subset.entry.unknown == tuple(subset.unknown.sum(axis=0).tolist())


def test_a_known_dataset_has_no_such_column(plain: Dataset) -> None:
    (subset,) = plain
    assert "labels_unknown" not in subset.schema().names
    assert plain.plan.schema == schema.PLAN_SCHEMA
    assert (subset[0].known("train"), subset.unknown, subset.entry.unknown) == (None, None, None)
    assert ImageDataset(subset[0], "train").known is None


def test_a_tensor_of_labels_is_never_zero_where_they_are_unknown(hidden: Dataset) -> None:
    rows = ImageDataset(hidden[0][0], "train")
    assert rows.known is not None
    for number in range(len(rows)):
        target = rows[number][1]
        assert torch.isnan(target).tolist() == (~rows.known[number]).tolist()


def test_a_method_that_would_read_unknown_labels_as_negative_is_refused(
    hidden: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("fedlgt", "promptfl"):
        prepared(RunConfig(method=method, manifest=str(hidden.folder), subset="voc"))
        monkeypatch.setattr(METHODS[method], "leaves_out_unknown", False)
        with pytest.raises(UsageError, match=f"labels are unknown, and {method} does not leave these out"):
            prepared(RunConfig(method=method, manifest=str(hidden.folder), subset="voc"))


@pytest.mark.parametrize("share", [0.98, 0.999999])
def test_training_tells_of_clients_that_know_no_label(tmp_path: Path, share: float) -> None:
    data = own(tmp_path / "a", np.random.default_rng(1).random((96, 4)) < 0.4, hidden_labels={"share": share})
    known = [client.known("train") for client in data[0]]
    blind = sum(mask is not None and len(mask) > 0 and not mask.any() for mask in known)
    training = sum(mask is not None and len(mask) > 0 for mask in known)
    assert (blind == training) is (share == 0.999999)
    assert 0 < blind <= training < len(known)
    notes: list[str] = []
    wanted = RunConfig(method="fedavg", manifest=str(data.folder), subset="own")
    if blind == training:
        with pytest.raises(UsageError, match="own: no label of a training row is known, so there is nothing to learn"):
            prepared(wanted)
        wanted = dataclasses.replace(wanted, rounds=0)
    config, subset, rows = prepared(wanted)
    remark(subset, rows, config, Listener(note=notes.append))
    words = f"own: {blind} of {len(known)} clients know no label of their training rows, which enter no loss of labels"
    assert words in notes


def test_an_older_fedkit_refuses_it(hidden: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads((hidden.folder / "manifest.json").read_text())["fedkit"] == 2
    folder = copied(hidden, tmp_path / "x")
    edit(lambda data: data.update(fedkit=1))(folder)
    with pytest.raises(ManifestError, match="fedkit=1 does not fit"):
        fedrsic_data.open(folder)
    monkeypatch.setattr(recipe, "UNKNOWN_LABELS", 1)  # what an older fedkit reads
    with pytest.raises(ManifestError, match="format 2 is newer than this fedkit reads"):
        fedrsic_data.open(hidden.folder)


def test_sites_have_no_truth_of_what_they_do_not_know(masked: Dataset, tmp_path: Path) -> None:
    (subset,) = masked
    for site in fedrsic_data.split_sites(masked, tmp_path / "sites"):
        part = fedrsic_data.open(tmp_path / "sites" / site.name)
        assert part[0][0].read("train") == subset.client(site.clients[0]).read("train")
        assert part.plan.column("labels_true").null_count == part.plan.num_rows
        assert part[0].entry.unknown == tuple(subset.part(site.clients).unknown.sum(axis=0).tolist())  # type: ignore[union-attr]
        found = fedrsic_data.verify(part)
        assert found.problems == ()
        assert "lacks the true values of unknown labels" in found.notes[-1]
        with pytest.raises(ManifestError, match="lacks the true values"):
            fedrsic_data.resplit(part, tmp_path / "again", clients=1)
    server = fedrsic_data.open(tmp_path / "sites" / "server")
    assert fedrsic_data.verify(server)
    assert (server.manifest.fedkit, server[0].unknown) == (2, None)
    whole = fedrsic_data.split_sites(masked, tmp_path / "whole", group=4)
    assert fedrsic_data.verify(tmp_path / "whole" / whole[0].name)


def known_after_all(table: pa.Table) -> pa.Table:
    """A shard that reads the unknown labels of its first rows as absent."""
    at = table.column_names.index("labels_unknown")
    lists = table.column("labels_unknown").to_pylist()
    lists[:3] = [[], [], []]
    return table.set_column(at, table.schema.field(at), pa.array(lists, table.schema.field(at).type))


def replan(change: Any) -> Any:
    """Damage to a plan whose digests are made to agree."""

    def damage(folder: Path) -> None:
        rewrite("plan.parquet", change)(folder)
        digest = schema.content_digest(pq.read_table(folder / "plan.parquet"))
        edit(lambda data: data["plan"].update(digest=digest), reseal=True)(folder)

    return damage


def other(column: str, names: list[str] | None) -> Any:
    """A plan with other names in a column of true labels, in the first row that has some labels, known and true."""

    def change(table: pa.Table) -> pa.Table:
        at, lists = table.column_names.index(column), table.column(column).to_pylist()
        known = table.column(column.removesuffix("_true")).to_pylist()
        lists[next(i for i, cell in enumerate(lists) if cell and known[i])] = names
        return table.set_column(at, table.schema.field(at), pa.array(lists, table.schema.field(at).type))

    return replan(change)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (rewrite("voc/train/client-0000.parquet", known_after_all), "column labels_unknown of the shards"),
        (edit(lambda m: m["subsets"]["voc"]["unknown"].reverse(), reseal=True), "unknown of voc is not what the plan"),
        (edit(lambda m: m["recipe"]["hidden_labels"].update(share=0.31), reseal=True), "is not what the recipe draws"),
        (edit(lambda m: m["recipe"]["hidden_labels"].update(of="positives"), reseal=True), "not what the recipe draws"),
        (edit(lambda m: m["recipe"].pop("hidden_labels"), reseal=True), "unknown labels are not those"),
        (other("labels_true", []), "of the plan is not what the recipe draws"),
    ],
)
def test_verify_finds_unknown_labels_that_are_not_the_recipes(
    hidden: Dataset, tmp_path: Path, damage: Any, words: str
) -> None:
    folder = copied(hidden, tmp_path / "x")
    damage(folder)
    found = [problem.words for problem in fedrsic_data.verify(folder).problems]
    assert any(words in text for text in found), found


def rewritten(column: str, change: Callable[[list[list[int]]], Any], kind: pa.DataType | None = None) -> Any:
    """Damage to the lists of a column of a shard, all digests right."""

    def changed(table: pa.Table) -> pa.Table:
        at = table.column_names.index(column)
        field = table.schema.field(at) if kind is None else pa.field(column, kind)
        return table.set_column(at, field, pa.array(change(table.column(column).to_pylist()), field.type))

    return rewrite("voc/train/client-0000.parquet", changed)


SEVERAL = [0, 2, 5]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (rewritten("labels_unknown", lambda rows: [None, *rows[1:]]), "a value that is no class of voc"),
        (rewritten("labels_unknown", lambda rows: [SEVERAL[::-1], *rows[1:]]), "each label once, in the order"),
        (rewritten("labels_unknown", lambda rows: [[0, 2, 2], *rows[1:]]), "each label once, in the order"),
        (rewritten("labels", lambda rows: [SEVERAL for _ in rows]), "labels has a label that labels_unknown says"),
        (rewritten("labels_unknown", lambda rows: rows, pa.list_(pa.float64())), "not have the expected columns"),
        (
            rewritten("labels_unknown", lambda rows: [[*map(str, row)] for row in rows], pa.list_(pa.string())),
            "not have the expected columns",
        ),
    ],
    ids=["null", "disorder", "twice", "both", "numbers", "texts"],
)
def test_a_shard_says_of_each_label_one_thing(hidden: Dataset, tmp_path: Path, damage: Any, words: str) -> None:
    folder = copied(hidden, tmp_path / "x")
    damage(folder)
    (subset,) = fedrsic_data.open(folder)
    with pytest.raises(ManifestError, match=words):
        subset.read("train", ["labels", "labels_unknown"])
    with pytest.raises(ManifestError, match=words):
        subset[0].read("train", ["labels", "labels_unknown"])


@pytest.mark.parametrize("count", [-1, 10**6])
def test_counts_of_unknown_labels_are_those_of_training_rows(hidden: Dataset, tmp_path: Path, count: int) -> None:
    data = json.loads((copied(hidden, tmp_path / "x") / "manifest.json").read_text())
    data["subsets"]["voc"]["unknown"][3] = count
    (tmp_path / "x" / "manifest.json").write_text(json.dumps(data))
    rows = hidden[0].entry.rows["train"]
    with pytest.raises(ManifestError, match=f"unknown has {count}; should be from 0 to {rows}, the training rows"):
        fedrsic_data.open(tmp_path / "x")


def test_a_fine_label_is_not_known_where_its_class_is_not(fine: Dataset) -> None:
    table = fine[0].read("train", ["fine_labels", "labels_unknown"])
    assert not unknown.disorder(table, fine[0].entry)
    every = [list(range(len(fine[0].entry.fine.classes)))] * len(table)
    table = table.set_column(0, table.schema.field(0), pa.array(every, table.schema.field(0).type))
    assert unknown.disorder(table, fine[0].entry) == "fine_labels has a label that labels_unknown says is unknown"


def test_unknown_labels_that_the_manifest_keeps_quiet_about(hidden: Dataset, tmp_path: Path, command: Command) -> None:
    folder = copied(hidden, tmp_path / "x")
    edit(lambda m: (m["subsets"]["voc"].pop("unknown"), m.update(fedkit=1)), reseal=True)(folder)
    quiet = fedrsic_data.open(folder)
    for read in (lambda: quiet[0].read("train", ["labels"]), lambda: quiet[0][0].read("train"), lambda: quiet.plan):
        with pytest.raises(ManifestError, match="does not have the expected columns; run: fedkit verify"):
            read()
    ran = command("train", "fedlgt", "--manifest", folder, "--rounds", 1, "--out", tmp_path / "run")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].endswith("does not have the expected columns; run: fedkit verify")


def test_unknown_labels_of_one_subset_are_not_those_of_another(hidden: Dataset) -> None:
    (subset,) = fedrsic_data.open(hidden.folder)
    subset.entry = dataclasses.replace(subset.entry, unknown=None)
    with pytest.raises(ManifestError, match="does not match the manifest's entry for voc"):
        subset.plan  # noqa: B018


def test_a_plan_that_does_not_say_what_is_unknown(hidden: Dataset) -> None:
    rows, at = hidden[0].plan, hidden[0].plan.column_names.index("labels_unknown")
    rows = rows.set_column(at, rows.schema.field(at), pa.nulls(len(rows), rows.schema.field(at).type))
    with pytest.raises(ManifestError, match="labels_unknown has a value that is no class"):
        unknown.counts(rows, hidden[0].entry, hidden[0].clients)


@pytest.mark.parametrize("column", ["labels_true", "fine_labels_true"])
@pytest.mark.parametrize(
    ("names", "words"), [(None, "is not what the recipe draws"), ([], "is not what the"), (["sky"], "are no classes")]
)
def test_verify_finds_a_truth_that_is_none(
    fine: Dataset, tmp_path: Path, column: str, names: list[str] | None, words: str
) -> None:
    folder = copied(fine, tmp_path / "x")
    other(column, names)(folder)
    found = [problem.words for problem in fedrsic_data.verify(folder).problems]
    assert any(words in text for text in found), found
    with pytest.raises(VerificationError, match="build it again"):
        fedrsic_data.resplit(folder, tmp_path / "again", clients=3)


def test_cards_and_metadata_list_the_column(hidden: Dataset, plain: Dataset, tmp_path: Path) -> None:
    (subset,) = hidden
    pq.write_table(subset.schema().empty_table(), tmp_path / "x.parquet")
    told = yaml.safe_load(yaml.safe_dump(card._features(subset.entry), allow_unicode=True))
    assert datasets.Features._from_yaml_list(told) == datasets.Features.from_arrow_schema(subset.schema())
    records = croissant.describe(hidden.manifest, "me/voc")["recordSet"]
    fields = {field["name"]: field for record in records if record["name"] == "voc" for field in record["field"]}
    assert fields["labels_unknown"]["repeated"]
    for dataset in (hidden, plain):
        pages = [(dataset.folder / "README.md").read_text(), card.render(dataset.manifest, "me/voc", "plan-x", ())]
        assert ["labels_unknown" in page for page in pages] == [dataset is hidden] * 2


def test_commands_show_what_is_unknown(hidden: Dataset, plain: Dataset, command: Command, tmp_path: Path) -> None:
    (subset,) = hidden
    total = sum(subset.entry.unknown or ())
    facts: Any = answer(command("inspect", hidden.folder, "--json"))["subsets"]
    assert sum(facts["voc"]["unknown"].values()) == total
    assert sum(sum(client["unknown"].values()) for client in facts["voc"]["clients"]) == total
    text = command("inspect", hidden.folder).stdout
    assert f"{total:,} of {subset.entry.rows['train'] * 17:,} labels of training rows are unknown" in text
    assert re.search(r"classes +unknown +train labels", text)
    assert "seed 0; hidden labels: a share of 0.3 of entries" in text
    assert "counts of labels and skew are those of known labels" in text
    assert "unknown" not in command("inspect", plain.folder).stdout
    page = tmp_path / "x.html"
    assert command("report", hidden.folder, "--out", page).returncode == 0
    assert "unknown labels, %" in page.read_text()
    assert "unknown in rows" in page.read_text()
    assert "Unknown labels are counted as absent" in page.read_text()
    options = ["--set", "sample.users=40", "--set", "sample.size=32", "--set", "clients=4", "--partition", "iid"]
    hide = ["--set", "hidden_labels.share=0.3"]
    dry: Any = answer(command("build", "voc", "--sample", *options, *hide, "--dry-run", "--json"))
    assert dry["subsets"]["voc"]["unknown"] == total


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["hidden_labels.share=1"], ("share=1.0", "below 1")),
        (["hidden_labels.share=-0.1"], ("share=-0.1", "at least 0")),
        (["hidden_labels.share=some"], ("hidden_labels: share: 'some' should be a number",)),
        (["hidden_labels=0.3"], ("hidden_labels", "0.3 should be an object")),
        (["hidden_labels.of=entries"], ("'share' is missing",)),
        (["hidden_labels.share=0.3", "hidden_labels.of=negatives"], ("'negatives' is not one of entries, positives",)),
        (["hidden_labels.shaer=0.3"], ("unknown key 'shaer'", "did you mean 'share'?")),
        (["hiden_labels.share=0.3"], ("unknown key 'hiden_labels'", "did you mean 'hidden_labels'?")),
        (["annotated_labels.count=0"], ("count=0 should be at least 1",)),
        (["annotated_labels.count=18"], ("annotated_labels.count=18 is more than the 17 labels",)),
        (["annotated_labels.alpha=0.5"], ("should have either 'count' or 'clients'",)),
        (["annotated_labels.count=3", "annotated_labels.alpha=0"], ("alpha=0.0 should be a finite number above 0",)),
        (['annotated_labels.clients={"client-0000": ["sky"]}'], ("unknown label 'sky'",)),
        (['annotated_labels.clients={"client-9": []}'], ("clients.client-9: should name at least one label",)),
        (['annotated_labels.clients={"client-9": ["person"]}'], ("client-9: there is no such client; did you mean",)),
    ],
)
def test_settings_that_cannot_be_used_give_one_line(command: Command, sets: list[str], words: tuple[str, ...]) -> None:
    options = [option for text in ("sample.users=12", "sample.size=32", *sets) for option in ("--set", text)]
    refused(command("build", "voc", "--sample", "--dry-run", *options), *words)


def test_the_page_hides_labels(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "howto.md").read_text().split("## Hide labels")[1].split("```")[1]
    commands = [shlex.split(line, comments=True) for line in page.splitlines()[1:]]
    assert [words[1] for words in commands] == ["build", "resplit", "build", "inspect"]
    for words in commands:
        small = ["--set", "sample.users=40", "--set", "sample.size=32"] if words[1] == "build" else []
        assert command(*words[1:], *small).returncode == 0
    for name in ("voc-sample", "voc-five", "voc-positives"):
        entry = fedrsic_data.open(tmp_path / "data" / name)[0].entry
        assert sum(entry.unknown or ()) > 0
        assert fedrsic_data.verify(tmp_path / "data" / name)


def test_labels_of_a_client_may_not_be_forgotten(plain: Dataset) -> None:
    named = {"client-0000": [plain[0].classes[0]]}
    with pytest.raises(UsageError, match="names no labels of client-0001"):
        fedrsic_data.build("voc", plain.folder.parent / "x", **SMALL, annotated_labels={"clients": named})


@pytest.mark.parametrize("setting", ["hidden_labels.share=0.3", "annotated_labels.count=3"])
def test_single_label_images_have_none(command: Command, setting: str) -> None:
    done = command("build", "fed-rsic", "--sample", "--subset", "fed-ucmerced", "--dry-run", "--set", setting)
    refused(done, "subset fed-ucmerced", setting.split(".")[0], "needs multi-label images")


def test_a_subset_may_have_its_own(tmp_path: Path) -> None:
    own = {"subsets.voc.hidden_labels": {"share": 0.2, "of": "positives"}, "hidden_labels": {"share": 0.9}}
    data = fedrsic_data.build("voc", tmp_path / "voc", **SMALL, **own)
    total = sum(data[0].entry.unknown or ())
    assert 0 < total < 0.2 * 17 * data[0].entry.rows["train"]
    assert manifest.load(data.folder).recipe.hidden_of("voc") == recipe.HiddenLabels(0.2, "positives")
