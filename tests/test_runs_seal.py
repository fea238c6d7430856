"""A finished run is sealed: whatever is changed in it, compare and report refuse it and verify says what it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, fedkit, printed
from federated_softmax import Softmax
from softmax_runs import config, resealed_run

from fedrsic_data.errors import OutputError
from fedtrain import methods, run
from fedtrain.report import answers, html
from fedtrain.runs.files import is_run
from fedtrain.runs.folder import load
from fedtrain.runs.results import found, grouped
from fedtrain.runs.verify import check_run


@pytest.fixture(scope="module")
def finished(sample_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods.METHODS, "softmax", Softmax)
        run.train(config(sample_build, "rounds=2"), folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(name: str, *keys: str, value: object) -> Callable[[Path], None]:
    """Sets a value in one of a run's JSON files."""

    def change(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        held = data
        for key in keys[:-1]:
            held = held[key]
        assert held[keys[-1]] != value
        held[keys[-1]] = value
        (folder / name).write_text(json.dumps(data, indent=1))

    return change


def last_line(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    *others, last = path.read_text().splitlines()
    line = json.loads(last)
    line["figures"]["test/accuracy/pooled"] = 99.9
    path.write_text("\n".join([*others, json.dumps(line), ""]))


def first_line(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), "loss": 0.01}), *others, ""]))


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a mean": ("result.json", edit("result.json", "figures", "test/accuracy/mean", value=99.9)),
    "a figure of all rows": ("result.json", edit("result.json", "figures", "test/accuracy/pooled", value=99.9)),
    "a client": ("result.json", edit("result.json", "clients", "test", "accuracy", "client-0000", value=99.9)),
    "what was sent": ("result.json", edit("result.json", "counters", "client_floats", value=1)),
    "the seal": ("result.json", edit("result.json", "seal", value="0" * 64)),
    "no seal": ("result.json", edit("result.json", "seal", value=None)),
    "the seed": ("config.json", edit("config.json", "config", "seed", value=5)),
    "the method": ("config.json", edit("config.json", "config", "method", value="other")),
    "a setting": ("config.json", edit("config.json", "config", "method_settings", "lr", value=0.1)),
    "the dataset": ("config.json", edit("config.json", "dataset", "digest", value="0" * 64)),
    "real images": ("config.json", edit("config.json", "dataset", "sample", value=False)),
    "no metrics": ("metrics.jsonl", lambda folder: (folder / "metrics.jsonl").unlink()),
    "no line": ("metrics.jsonl", lambda folder: (folder / "metrics.jsonl").write_text("")),
    "its last line": ("metrics.jsonl", last_line),
    "its first line": ("metrics.jsonl", first_line),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_run_is_refused_wherever_it_is_read(case: str, folder: Path) -> None:
    file, change = CHANGES[case]
    change(folder)
    for look in (lambda: found([folder]), lambda: found([folder.parent]), lambda: html.page([folder])):
        with pytest.raises(OutputError, match=rf"{file}: is damaged \(.*\); start the run anew with --overwrite$"):
            look()
    assert file in {problem.file for problem in check_run(folder)[1]}


COUNTED_AGAIN = ("a mean", "a figure of all rows", "a client", "no metrics", "no line", "its last line")


@pytest.mark.parametrize("case", COUNTED_AGAIN)
@pytest.mark.parametrize("again", ["sealed anew", "without a seal"])
def test_invented_figures_do_not_fit_each_other(case: str, again: str, folder: Path) -> None:
    """Also if the seal is made again, or taken off as if an older fedkit had written the run."""
    CHANGES[case][1](folder)
    resealed_run(folder) if again == "sealed anew" else unsealed(folder)
    with pytest.raises(OutputError, match="is damaged"):
        found([folder])


@pytest.mark.parametrize("case", ["the seed", "the method", "a setting", "the dataset"])
def test_another_config_is_not_that_of_the_run(case: str, folder: Path) -> None:
    CHANGES[case][1](folder)
    unsealed(folder)
    with pytest.raises(OutputError, match=r"config.json: is damaged \(run is not the digest of config and dataset\)"):
        found([folder])


def test_a_sample_that_calls_itself_real_is_found_out_by_its_dataset(folder: Path) -> None:
    CHANGES["real images"][1](folder)
    resealed_run(folder)
    (problem,) = check_run(folder)[1]
    assert problem.file == "config.json"
    assert problem.words == "says sample=False of its dataset, whose manifest says True"


def config_lie(*keys: str, value: object) -> Callable[[Path], object]:
    return edit("config.json", *keys, value=value)


def another_client(folder: Path) -> None:
    """Rows that moved from one client to another: the mean over clients stays what they give."""
    data = json.loads((folder / "result.json").read_text())
    rows = data["clients"]["test"]["rows"]
    names = list(rows)
    for held in data["clients"]["test"].values():
        held["somebody"] = held.pop(names[-1])
    (folder / "result.json").write_text(json.dumps(data, indent=1))


LIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "the title of a source": (config_lie("dataset", "titles", value={"ucmerced": "UC Merced"}), "says titles="),
    "the partition": (config_lie("dataset", "partition", value="iid"), "says partition='iid' of its dataset"),
    "the name": (config_lie("dataset", "name", value="real"), "says name='real' of its dataset"),
    "another subset": (config_lie("config", "subset", value="ghost"), "says subset='ghost', and its dataset has"),
    "the group": (config_lie("group", value="0" * 64), "group is not the digest of config and recipe"),
    "other splits": (config_lie("config", "splits", value=["val"]), "clients are not of the splits of the config"),
    "other clients": (another_client, "clients.test.rows are not those of the dataset's clients"),
}


@pytest.mark.parametrize("case", LIES)
def test_what_a_sealed_run_says_of_its_dataset_is_compared_with_it(case: str, folder: Path) -> None:
    change, words = LIES[case]
    change(folder)
    resealed_run(folder)
    found = [problem.words for problem in check_run(folder)[1]]
    assert any(words in one for one in found), found


def test_a_split_that_a_dataset_does_not_have(folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    result["clients"]["val"] = result["clients"].pop("test")
    result["figures"] = {name.replace("test/", "val/"): value for name, value in result["figures"].items()}
    (folder / "result.json").write_text(json.dumps(result))
    config_lie("config", "splits", value=["val"])(folder)
    resealed_run(folder)
    assert any("was judged on 'val', and fed-ucmerced has train, test" in one.words for one in check_run(folder)[1])


def unsealed(folder: Path) -> None:
    """As fedkit 0.1.0 wrote it."""
    data = json.loads((folder / "result.json").read_text())
    del data["seal"], data["files"]
    (folder / "result.json").write_text(json.dumps(data, indent=1))


def test_runs_without_a_seal_open_and_are_marked(finished: Path, folder: Path) -> None:
    unsealed(folder)
    notes: list[str] = []
    results = found([folder], notes.append)
    assert notes == [f"{folder}: has no seal, since an older fedkit wrote it; its metrics cannot be verified"]
    groups = grouped(results)
    assert (groups[0].label, groups[0].sealed) == ("softmax (unsealed)", False)
    for form in ("text", "markdown", "csv", "json"):
        assert "softmax (unsealed)" in printed(answers.compared(groups, form).text, 160)
    page = html.page([folder])
    assert any("has no seal" in words for words in page.words)
    assert "softmax (unsealed)" in str(page.sections)
    assert [group.label for group in grouped(found([finished]))] == ["softmax"]
    assert "has no seal: nothing proves its metrics" in printed(answers.trained(results).text, 160)
    assert [problem.words for problem in check_run(folder)[1]] == [
        "has no seal, an older fedkit wrote it: nothing proves its metrics"
    ]


def test_verify_says_what_holds_of_a_run(finished: Path, sample_build: Path, folder: Path) -> None:
    assert is_run(finished)
    assert not is_run(sample_build)
    whole = json.loads(fedkit("verify", finished, "--json").stdout)
    assert (whole["ok"], whole["sealed"], whole["problems"], whole["notes"]) == (True, True, [], [])
    digest = json.loads((sample_build / "manifest.json").read_text())["digest"]
    assert whole["dataset"]["digest"] == digest, "from the table to the dataset"
    state = folder / "checkpoint/state.safetensors"
    state.write_bytes(state.read_bytes() + b"x")
    CHANGES["a mean"][1](folder)
    done = fedkit("verify", folder)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[-1] == "FAILED"
    assert {line.partition(":")[0] for line in lines[:-1]} >= {"result.json", "checkpoint/state.safetensors"}


def test_what_is_not_at_hand_is_said(folder: Path) -> None:
    """A run that was copied without its checkpoint, away from its dataset, is whole; what was not compared is told."""
    shutil.rmtree(folder / "checkpoint")
    edit("config.json", "config", "manifest", value="nowhere")(folder)
    resealed_run(folder)
    _, problems, notes = check_run(folder)
    assert problems == []
    assert [note.partition(";")[0] for note in notes] == [
        "checkpoint/state.safetensors is not there, or was not sealed",
        "the dataset is not at nowhere",
    ]


def test_a_finished_run_that_was_changed_is_not_taken_for_the_one_that_is_wanted(
    sample_build: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(methods.METHODS, "softmax", Softmax)
    CHANGES["a mean"][1](folder)
    with pytest.raises(OutputError, match=r"result.json: is damaged"):
        run.train(config(sample_build, "rounds=2"), folder)
    assert run.train(config(sample_build, "rounds=2"), folder, overwrite=True).trained
    assert found([folder])[0].sealed


def test_verify_of_a_run_needs_no_torch(finished: Path) -> None:
    code = f"import sys, cli; sys.argv = ['fedkit', 'verify', {str(finished)!r}, '--json']\ntry: cli.main()\n"
    code += "except SystemExit: sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "dp", None),
        ("config.json", "dp", "none"),
        ("config.json", "dp", []),
        ("result.json", "privacy", {"epsilon": 1.0}),
        ("result.json", "privacy", [1]),
        ("result.json", "privacy", True),
    ],
)
def test_odd_privacy_in_a_run_without_a_seal_is_damage_in_one_line(
    name: str, key: str, value: object, folder: Path
) -> None:
    result = json.loads((folder / "result.json").read_text())
    del result["seal"]
    (folder / "result.json").write_text(json.dumps(result))
    data = json.loads((folder / name).read_text())
    (data["config"] if name == "config.json" else data)[key] = value
    (folder / name).write_text(json.dumps(data))
    with pytest.raises(OutputError, match=rf"is damaged \((config\.)?{key}\)"):
        load(folder)
