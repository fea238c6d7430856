"""fedkit compare: runs that differ in their seed alone share a column, with mean and spread."""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, printed, sampled
from federated_softmax import Softmax
from softmax_runs import config, resealed_run

from fedrsic_data.errors import OutputError, UsageError
from fedrsic_data.partition import PARTITIONERS
from fedrsic_data.report import style
from fedrsic_data.report.page import Table
from fedrsic_data.sources import coco, flair, voc
from fedtrain import methods, published, run
from fedtrain.api.runs import compare
from fedtrain.report import answers, curves, html, papers
from fedtrain.runs import results
from fedtrain.runs.results import Group, Spread, found, grouped


@pytest.fixture(scope="module")
def runs(sample_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of one config, one run of another, and one on the same recipe with another seed."""
    torch.set_num_threads(1)
    top = tmp_path_factory.mktemp("runs")
    other = sampled(tmp_path_factory.mktemp("other") / "fed", "seed=9").path
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods.METHODS, "softmax", Softmax)
        for seed in range(3):
            run.train(config(sample_build, f"seed={seed}", "rounds=2"), top / f"a{seed}")
        run.train(config(sample_build, "lr=0.05", "rounds=2", "cohort=2"), top / "b")
        run.train(config(other, "seed=3", "rounds=2"), top / "c")
    return top


def test_mean_and_spread_over_seeds(runs: Path) -> None:
    results = found([runs / f"a{seed}" for seed in range(3)])
    (group,) = grouped(results)
    assert group.label == "softmax"
    assert group.seeds == (0, 1, 2)
    for name in results[0].data["figures"]:
        values = [r.data["figures"][name] for r in results]
        spread = group.figures[name]
        assert spread.mean == pytest.approx(statistics.fmean(values))
        assert spread.std == pytest.approx(statistics.stdev(values))
        assert (spread.least, spread.most, spread.runs) == (min(values), max(values), 3)
    assert len({r.data["figures"]["test/accuracy/mean"] for r in results}) > 1


def test_groups_are_told_apart_by_what_differs(runs: Path) -> None:
    groups = grouped(found([runs]))
    assert [(g.label, g.seeds) for g in groups] == [("softmax, lr 0.5", (0, 1, 2, 3)), ("softmax, lr 0.05", (0,))]
    assert groups[1].figures["test/accuracy/mean"].std is None


def test_the_same_dataset_drawn_with_another_seed_is_the_same_group(runs: Path) -> None:
    results = found([runs / "a0", runs / "c"])
    assert results[0].facts["dataset"]["digest"] != results[1].facts["dataset"]["digest"]
    assert len(grouped(results)) == 1


def test_engines_and_copies_of_a_dataset_are_no_repetitions(runs: Path, tmp_path: Path) -> None:
    """The same seeds again give no spread: each stands in a column of its own, named by what it differs in."""
    for name, changes in (("sites", {"engine": "federation"}), ("copy", {})):
        shutil.copytree(runs / "a0", tmp_path / name)
        facts = json.loads((tmp_path / name / "config.json").read_text())
        facts["dataset"]["digest"], facts["config"]["manifest"] = name, f"data/{name}"
        (tmp_path / name / "config.json").write_text(json.dumps(facts))
        data = json.loads((tmp_path / name / "result.json").read_text()) | changes
        (tmp_path / name / "result.json").write_text(json.dumps(data))
        resealed_run(tmp_path / name)
    shutil.copytree(tmp_path / "sites", tmp_path / "again")
    notes: list[str] = []
    groups = grouped(
        found([runs / "a0", runs / "a1", *(tmp_path / n for n in ("sites", "copy", "again"))], notes.append)
    )
    assert [group.seeds for group in groups] == [(0, 1), (0,), (0,)]
    assert [group.label for group in groups] == [
        "softmax, engine local, dataset fed",
        "softmax, engine federation",
        "softmax, engine local, dataset copy",
    ]
    assert [note.replace(str(tmp_path), "") for note in notes] == ["/again: is the same run as /sites and is left out"]


def test_recipes_that_differ_are_told_apart_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the recipe for all methods on the subset, those of a run within its method; no path is in a label."""
    for method in ("softmax", "hard"):
        monkeypatch.setitem(methods.METHODS, method, Softmax)
    sets = {"a": ["alpha=0.1"], "b": ["alpha=0.3"], "iid": []}
    more = {"iid": {"partitioner": "iid"}}
    built = {name: sampled(tmp_path / name, *its, **more.get(name, {})).path for name, its in sets.items()}
    for number, (name, method, lr) in enumerate(
        [("a", "softmax", 0.5), ("b", "softmax", 0.5), ("b", "softmax", 0.1), ("b", "hard", 0.5), ("iid", "hard", 0.5)]
    ):
        wanted = replace(config(built[name], "rounds=1", f"lr={lr}"), method=method)
        run.train(wanted, tmp_path / "runs" / str(number))
    assert [group.label for group in grouped(found([tmp_path / "runs"]))] == [
        "softmax, dirichlet, alpha 0.1, lr 0.5",
        "softmax, dirichlet, alpha 0.3, lr 0.5",
        "softmax, dirichlet, alpha 0.3, lr 0.1",
        "hard, dirichlet, alpha 0.3",
        "hard, iid",
    ]
    assert [group.label for group in grouped(found([tmp_path / "runs/0", tmp_path / "runs/1"]))] == [
        "softmax, alpha 0.1",
        "softmax, alpha 0.3",
    ]
    for number in range(2):  # as an earlier version recorded them
        path = tmp_path / f"runs/{number}/config.json"
        facts = json.loads(path.read_text())
        del facts["dataset"]["recipe"]
        path.write_text(json.dumps(facts))
        resealed_run(path.parent)
    assert [group.label for group in grouped(found([tmp_path / "runs/0", tmp_path / "runs/1"]))] == [
        "softmax, dataset a",
        "softmax, dataset b",
    ]


def test_settings_of_the_run_are_told_between_methods(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds and sampled clients head every column; settings of methods, and training that there is not, do not."""
    for method in ("softmax", "hard"):
        monkeypatch.setitem(methods.METHODS, method, Softmax)
    wanted = [("softmax", 2, 2, 0.5), ("hard", 1, 3, 0.1), ("hard", 0, 3, 0.1)]
    for number, (method, rounds, clients, lr) in enumerate(wanted):
        sets = (f"rounds={rounds}", f"clients_per_round={clients}", f"lr={lr}")
        run.train(replace(config(sample_build, *sets), method=method), tmp_path / str(number))
    assert [group.label for group in grouped(found([tmp_path / "0", tmp_path / "1"]))] == [
        "softmax, rounds 2, clients_per_round 2",
        "hard, rounds 1, clients_per_round 3",
    ]
    names = ["softmax", "hard, rounds 0"]
    assert [group.label for group in grouped(found([tmp_path / "0", tmp_path / "2"]))] == names
    assert compare([tmp_path / "0", tmp_path / "2"]).table.columns == tuple(names)


def test_a_report_marks_no_cost_as_best(runs: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("a0", "b")):
        copy = Path(shutil.copytree(runs / name, tmp_path / name))
        data = json.loads((copy / "result.json").read_text())
        data["privacy"] = {"kind": "central", "epsilon": 1.0 + number, "delta": 1e-5}
        (copy / "result.json").write_text(json.dumps(data))
        resealed_run(copy)
    table = html.page([tmp_path]).sections[0].blocks[0]
    assert isinstance(table, Table)
    names = table.numbers.header
    assert {"epsilon (central)", results.FLOATS} <= set(names)
    marked = {names[column] for _, column in table.best}
    assert marked
    assert all(name.startswith("test/") for name in marked)


def test_forms_tell_the_same(runs: Path) -> None:
    groups = grouped(found([runs]))
    mean = groups[0].figures["test/accuracy/mean"]
    cell = f"{mean.mean:.2f} ± {mean.std:.2f}"
    data = json.loads(printed(answers.compared(groups, "json").text, 160))
    assert data == answers.compared(groups, "text").data
    assert data["groups"][0]["figures"]["test/accuracy/mean"]["mean"] == mean.mean
    rows = list(csv.DictReader(io.StringIO(printed(answers.compared(groups, "csv").text, 160))))
    (row,) = [r for r in rows if r["metric"] == "test/accuracy/mean" and r["run"] == "softmax, lr 0.5"]
    assert (float(row["mean"]), float(row["std"]), int(row["runs"])) == (mean.mean, mean.std, 4)
    assert [r["std"] for r in rows if r["run"] == "softmax, lr 0.05"] == [""] * len(groups[1].figures)
    table = printed(answers.compared(groups, "markdown").text, 160)
    assert "| metric | softmax, lr 0.5 (4 runs) | softmax, lr 0.05 |" in table
    assert f"| test/accuracy/mean | {cell} | " in table
    text = printed(answers.compared(groups, "text").text, 160)
    assert cell in text
    assert "fed-ucmerced of fed-rsic-sample (procedural sample, not real data)" in text


def test_what_cannot_be_compared(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no run"):
        found([tmp_path])
    with pytest.raises(UsageError, match="--format 'cvs': is not a format; did you mean 'csv'"):
        answers.compared(grouped(found([runs / "b"])), "cvs")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_bytes((runs / "b/config.json").read_bytes())
    with pytest.raises(OutputError, match="half: is not finished; run the same fedkit train again"):
        found([tmp_path / "half"])
    with pytest.raises(OutputError, match="holds no run"):  # nothing else is in the folder
        found([tmp_path])
    (tmp_path / "half/config.json").write_text("{")
    (tmp_path / "half/result.json").write_text("{}")
    with pytest.raises(OutputError, match="config.json: cannot be read"):
        found([tmp_path / "half"])


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        *(("config.json", field, None) for field in ("run", "group", "config.method", "config.seed", "versions")),
        *(("config.json", field, None) for field in ("config.manifest", "config.method_settings", "dataset.name")),
        *(("config.json", "dataset.sample", 1), ("config.json", "dataset.sources", [[]])),
        *(("result.json", "figures", []), ("result.json", "clients.test", "x"), ("result.json", "seconds", "x")),
        *(("result.json", "seconds", 10**400), ("result.json", "counters.client_floats", None)),
        ("result.json", "figures.test/accuracy/mean", 1e308),
    ],
)
def test_a_damaged_run_is_one_line(file: str, field: str, value: object, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "b", tmp_path / "b")
    data = json.loads((tmp_path / "b" / file).read_text())
    *above, last = field.split(".")
    held = data
    for key in above:
        held = held[key]
    held[last] = value
    (tmp_path / "b" / file).write_text(json.dumps(data))
    with pytest.raises(OutputError, match=rf"{file}: is damaged .*start the run anew with --overwrite"):
        found([tmp_path / "b"])


@pytest.mark.parametrize("text", ['{"fedkit": NaN}', '{"fedkit": 1e999}', '{"fedkit": "\\ud800"}', "[" * 100_000])
def test_json_that_cannot_be_told_again(text: str, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "b", tmp_path / "b")
    (tmp_path / "b/config.json").write_text(text)
    with pytest.raises(OutputError, match=r"config.json: cannot be read .*start the run anew with --overwrite"):
        found([tmp_path / "b"])
    line = text.replace("fedkit", "loss")
    (tmp_path / "b/config.json").write_bytes((runs / "b/config.json").read_bytes())
    (tmp_path / "b/metrics.jsonl").write_text(line)
    resealed_run(tmp_path / "b")
    with pytest.raises(OutputError, match=r"metrics.jsonl: is damaged"):
        html.page([tmp_path / "b"])


@pytest.mark.parametrize(
    "change",
    [
        *({"round": 10**30}, {"round": -1}, {"round": True}, {"loss": 10**400}, {"loss": "x"}, {"floats_sent": -5}),
        *({"figures": []}, {"figures": {"test/accuracy/mean": 1e308}}, {"figures": {"test/accuracy/mean": "x"}}),
    ],
)
def test_damaged_rounds_are_one_line(change: dict[str, object], runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "b", tmp_path / "b")
    path = tmp_path / "b/metrics.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), **change}), *others]))
    resealed_run(tmp_path / "b")
    with pytest.raises(OutputError, match=r"metrics.jsonl: is damaged; start the run anew with --overwrite"):
        html.page([tmp_path / "b"])


def test_files_that_may_not_be_read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path, encoding: str) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    (held,) = found([runs / "b"])
    monkeypatch.setattr(Path, "read_text", closed)
    for look in (lambda: found([runs / "b"]), lambda: curves.Runs(grouped([held])[0], (held,), 0).lines):
        with pytest.raises(OutputError, match=r"(config.json|metrics.jsonl): cannot be read .Permission denied.$"):
            look()


def test_folders_of_runs(runs: Path, tmp_path: Path) -> None:
    """Two deep; what is not finished and what is there twice is left out and said."""
    shutil.copytree(runs, tmp_path / "all/first")
    shutil.copytree(runs / "b", tmp_path / "all/again")
    (tmp_path / "all/first/a1/result.json").unlink()
    notes: list[str] = []
    held = found([tmp_path / "all", tmp_path / "all/again"], notes.append)
    assert [r.folder.name for r in held] == ["again", "a0", "a2", "c"]
    assert [note.replace(str(tmp_path), "") for note in notes] == [
        "/all/first/a1: is not finished and is left out",
        "/all/first/b: is the same run as /all/again and is left out",
    ]


def test_comparing_needs_no_torch(runs: Path) -> None:
    code = f"import sys, cli; sys.argv = ['fedkit', 'compare', {str(runs)!r}, '--json']\ntry: cli.main()\n"
    code += "except SystemExit: sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["groups"]) == 2


def test_a_figure_that_only_some_have(runs: Path) -> None:
    results = found([runs / "a0", runs / "b"])
    results[1].data["figures"]["novel/accuracy"] = 5.0
    results[0].data["figures"]["novel/accuracy"] = None
    text = printed(answers.compared(grouped(results), "text").text, 160)
    (line,) = [line for line in text.splitlines() if "novel/accuracy" in line]
    assert line.split() == ["novel/accuracy", "-", "5.00"]


TITLES = {
    "flair": "FLAIR, Federated Learning Annotated Image Repository",
    "coco": "MS-COCO 2014",
    "voc": "PASCAL VOC 2007 + 2012",
}


def label_runs(
    source: str, labels: str, label: str = "fedlgt", *, title: str = "", partition: str = "natural"
) -> Group:
    """A group with multi-label metrics."""
    figures = {f"test/{name}": Spread(50.0 + i, None, 0.0, 99.0, 1) for i, name in enumerate(published.COLUMNS)}
    titles = {source: title or TITLES.get(source, "")}
    return Group(label, source, source, False, (source,), titles, partition, labels, (0,), figures)


def test_published_figures_stand_below_ours_and_say_whose_they_are() -> None:
    groups = [label_runs("flair", "coarse"), label_runs("flair", "coarse", "fedavg"), label_runs("mine", "coarse")]
    lines = printed(answers.compared(groups, "markdown").text, 160).splitlines()
    start = next(i for i, line in enumerate(lines) if "flair of flair, coarse labels, as papers print them" in line)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[start + 2 :] if line]
    assert rows[0] == ["method", *published.COLUMNS]
    assert [row[0].split(" (")[0] for row in rows[2:]] == [
        *("fedlgt", "fedavg", "FedC-Tran", "FedC-Tran + CA-MLE", "FedC-Tran + ULE", "FedLGT"),
    ]
    assert rows[2][1] == "50.00"
    assert rows[-1][1] == "60.90"
    assert rows[-1][2] == "-"
    for row in rows[2:]:
        theirs = (
            "published on real flair: FedLGT, arXiv 2312.07165, as a third party's summary tells; not measured here)"
        ) in row[0]
        assert theirs == ("ours" not in row[0])
    text = printed(answers.compared(groups, "text").text, 160)
    assert "mine of mine, " not in text  # nothing is published on other data
    data = answers.compared(groups, "json").data
    assert {row["source"] for row in data["published"]} == {"flair"}
    assert len(data["published"]) == 4


def test_fine_labels_have_their_own_published_figures() -> None:
    text = printed(answers.compared([label_runs("flair", "fine")], "text").text, 160)
    assert "10.60" in text
    assert "60.90" not in text


@pytest.mark.parametrize(
    ("source", "title", "partition", "words"),
    [
        ("coco", "MS-COCO 2014", "iid", ""),
        ("coco", "MS-COCO 2017", "iid", "; another protocol: on MS-COCO 2014"),
        ("coco", "MS-COCO 2017", "dirichlet", "; another protocol: on MS-COCO 2014, iid clients"),
        ("voc", "PASCAL VOC 2007 + 2012", "iid", ""),
        ("voc", "PASCAL VOC 2007", "iid", ""),
        ("voc", "PASCAL VOC 2012", "iid", "; another protocol: on PASCAL VOC 2007 or PASCAL VOC 2007 + 2012"),
        ("voc", "PASCAL VOC 2007", "domain", "; another protocol: iid clients"),
        ("flair", "FLAIR, Federated", "dirichlet", "; another protocol: natural clients"),
    ],
)
def test_a_published_row_says_what_sets_its_protocol_apart(source: str, title: str, partition: str, words: str) -> None:
    group = label_runs(source, "coarse", title=title, partition=partition)
    (rows,) = papers.as_papers([group]).values()
    theirs = [row for row in rows if "published on real" in row]
    assert theirs
    assert all(row.endswith(f"not measured here{words})") for row in theirs)
    assert all("a third party's summary" in row for row in theirs)


def test_titles_of_published_rows_are_those_that_sources_have() -> None:
    known = [flair.SOURCE.facts.title]
    known += [coco.Coco(settings=coco.CocoSettings(year=year)).facts.title for year in (2014, 2017)]
    known += [voc.Voc(settings=voc.VocSettings(years=years)).facts.title for years in (2007, 2012, "07+12")]
    for row in published.rows():
        assert all(any(title.startswith(one) for title in known) for one in row.titles)
        assert row.partition in ({*PARTITIONERS} if row.protocol == "fedlgt" else {"", *PARTITIONERS})


def test_a_run_says_what_its_images_are_of_and_how_they_were_dealt(runs: Path) -> None:
    (group,) = grouped(found([runs / "a0"]))
    assert group.partition == "dirichlet"
    assert all(title.startswith("sample of ") for title in group.titles.values())
    assert group.titles.keys() == set(group.sources)


def test_no_two_methods_of_a_picture_share_a_colour(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and whatever their names; the reference is grey in every picture."""
    (held,) = found([runs / "b"])
    names = [f"method-{i:02d}" for i in range(19)]
    names.insert(3, curves.REFERENCE)
    made = [replace(held, facts={**held.facts, "config": {**held.facts["config"], "method": name}}) for name in names]
    made = [replace(one, facts={**one.facts, "group": str(i)}) for i, one in enumerate(made)]
    monkeypatch.setattr(results, "found", lambda _paths, _note: made)
    parts = curves.parts(html._grouped([], print))
    assert len(parts) == 3
    seen = set()
    for part in parts:
        colors = {one.method: one.color for one in part}
        assert len(set(colors.values())) == len(colors)
        assert colors.pop(curves.REFERENCE) == style.LIGHT["muted"]
        seen |= colors.keys()
    assert seen | {curves.REFERENCE} == set(names)
