"""The command as people and machines use it."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Command, answer, fedkit, refused
from rich.console import Console

import fedrsic_data
import fedtrain
from fedrsic_data import distribution
from fedrsic_data.answer import together
from fedrsic_data.cli import console
from fedrsic_data.dataset import manifest
from fedrsic_data.errors import UsageError

shipped = importlib.import_module("fedrsic_data.recipes.shipped")
SAMPLE = ("build", "fed-rsic", "--sample", "--set", "sample.per_class=4", "--set", "sample.size=32")


def test_build_inspect_verify(tmp_path: Path) -> None:
    built = fedkit(*SAMPLE, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert "procedural sample, not real data" in built.stdout
    assert "fedkit verify data/fed-rsic-sample" in built.stdout
    again = fedkit(*SAMPLE, cwd=tmp_path)
    assert "nothing to do" in again.stdout
    shown = fedkit("inspect", "data/fed-rsic-sample", "--subset", "fed-nwpu", cwd=tmp_path)
    assert "client-0009" in shown.stdout
    assert "by chance (IID)" in shown.stdout
    assert "fed-optimal" not in shown.stdout
    proved = fedkit("verify", "data/fed-rsic-sample", cwd=tmp_path)
    assert proved.returncode == 0
    assert "match the manifest" in proved.stdout
    card = (tmp_path / "data/fed-rsic-sample/README.md").read_text()
    assert "Sample data" in card


def test_json(tmp_path: Path) -> None:
    arguments = (*SAMPLE, "--subset", "fed-ucmerced", "--alpha", "0.2", "--clients", 4, "--seed", 3, "--json")
    plan = answer(fedkit(*arguments, "--dry-run", cwd=tmp_path))
    assert not (tmp_path / "data").exists()
    built = answer(fedkit(*arguments, "--out", "x", cwd=tmp_path))
    assert plan["plan"] == built["plan"]
    assert built["subsets"] == {"fed-ucmerced": {"rows": {"train": 67, "test": 17}, "clients": 4, "skipped": 0}}
    shown = answer(fedkit("inspect", "x", "--json", cwd=tmp_path))
    clients = shown["subsets"]["fed-ucmerced"]["clients"]
    assert [c["client_id"] for c in clients] == [f"client-000{k}" for k in range(4)]
    assert sum(sum(c["labels"].values()) for c in clients) == 67
    assert answer(fedkit("verify", "x", "--json", cwd=tmp_path))["ok"] is True
    listed = answer(fedkit("list", "--json"))
    assert {"dirichlet", "iid", "pathological"} <= {row["partitioner"] for row in listed["partitioners"]}


def test_resplit(sample_build: Path, tmp_path: Path) -> None:
    anew = answer(fedkit("resplit", sample_build, "--clients", 3, "--out", "x", "--json", cwd=tmp_path))
    assert anew["subsets"]["fed-ucmerced"]["clients"] == 3
    assert fedkit("verify", "x", cwd=tmp_path).returncode == 0
    refused(fedkit("resplit", sample_build, cwd=tmp_path), "--out", codes=(2,))
    refused(fedkit("resplit", "no", "--out", "y", cwd=tmp_path), "does not exist", codes=(1,))


def test_verify_fails_with_one(dataset: Path) -> None:
    shard = dataset / "fed-ucmerced/train/client-0003.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    done = fedkit("verify", dataset)
    assert done.returncode == 1
    assert "client-0003.parquet: has" in done.stdout
    assert fedkit("verify", dataset, "--json").returncode == 1


def test_usage_errors_are_one_line(tmp_path: Path) -> None:
    for arguments, words in (
        (("build",), "Missing argument"),
        (("frobnicate",), "frobnicate"),
        (("build", "fed-rsic", "--alpha", "x"), "--alpha"),
        (("build", "fed-rsci"), "fed-rsic"),
        (("build", "fed-rsic", "--partition", "iid", "--alpha", "1"), "unknown key 'alpha'"),
        (("list", "recipies"), "recipes"),
        (("inspect", "x", "--clients", "-1"), "--clients"),
    ):
        refused(fedkit(*arguments, cwd=tmp_path), words, codes=(2,))
    refused(fedkit("inspect", "x", cwd=tmp_path), "does not exist", codes=(1,))


def test_debug_shows_where() -> None:
    assert "Traceback" in fedkit("build", "no-such", FEDKIT_DEBUG="1").stderr


def test_a_closed_standard_error_never_becomes_a_file(tmp_path: Path) -> None:
    code = (
        "import os, sys; from fedrsic_data.cli import console; "
        "os.close(2); sys.stderr = None; console._open_streams(); print(os.fstat(2).st_rdev)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert int(done.stdout) == Path(os.devnull).stat().st_rdev


def test_answers_are_texts_and_never_markup() -> None:
    """Names come from other people: brackets stay, and what would steer a terminal is written out."""
    out = io.StringIO()
    Console(file=out, width=80, color_system="truecolor", force_terminal=True).print(
        together(["[red]x[/red] [/y]", "a\x1b[2Jb", "long " * 40]), crop=False
    )
    assert out.getvalue().split("\n")[:2] == ["[red]x[/red] [/y]", "a\\x1b[2Jb"]
    assert "long " * 39 in out.getvalue()


@pytest.mark.parametrize("option", [("--sources", "somewhere"), ("--source", "ucmerced=somewhere")])
def test_a_place_for_sources_is_not_passed_over_for_a_sample(option: tuple[str, str], tmp_path: Path) -> None:
    done = fedkit("build", "fed-rsic", "--sample", *option, "--dry-run", cwd=tmp_path)
    refused(done, option[0], "cannot be combined with --sample", codes=(2,))


def test_a_pipe_gets_a_line_of_progress_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 2.0, 6.0, 6.0, 7.0, 12.0, 12.0])
    monkeypatch.setattr("fedrsic_data.cli.console.time.monotonic", lambda: next(clock))
    with console.bars(quiet=False) as bar:
        update = bar("images")
        for done in (1, 2, 3000, 3001):
            update(done, 45_000)
        update(4000, None, "x.zip")
    assert capsys.readouterr().err == "images: 3,000 of 45,000 ...\nx.zip: 4,000 ...\n"
    with console.bars(quiet=True) as bar:
        bar("images")(1, 2)
    assert capsys.readouterr().err == ""


def test_the_version_is_said_everywhere(command: Command) -> None:
    assert fedrsic_data.__version__ == fedtrain.__version__ == distribution.version()
    assert command("version").stdout == command("--version").stdout == f"fedkit {distribution.version()}\n"
    module = subprocess.run([sys.executable, "-m", "fedrsic", "version"], capture_output=True, text=True, cwd="/")
    assert module.stdout == f"fedkit {distribution.version()}\n", module.stderr


def test_the_name_of_a_subset_is_its_recipe_with_it_alone(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sample = ("--sample", "--set", "sample.per_class=4", "--set", "sample.size=32")
    whole = answer(command("build", "fed-rsic", "--subset", "fed-ucmerced", *sample, "--json"))
    alone = answer(command("build", "fed-ucmerced", *sample, "--json"))
    assert alone["path"] == str(tmp_path / "data/fed-ucmerced-sample")
    assert alone["plan"] == whole["plan"]
    assert alone["subsets"] == whole["subsets"]
    ours, theirs = (manifest.load(Path(str(one["path"]))) for one in (alone, whole))
    assert ours.name == "fed-ucmerced-sample"
    assert ours.subsets["fed-ucmerced"].shards == theirs.subsets["fed-ucmerced"].shards
    python = fedrsic_data.build("fed-ucmerced", tmp_path / "p", sample={"per_class": 4, "size": 32})
    assert python.manifest.digest == alone["digest"]
    refused(command("build", "fed-ucmercd"), "did you mean 'fed-ucmerced'?", codes=(2,))


def test_a_subset_of_several_recipes_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {name: [*recipes, "other"] for name, recipes in shipped.subsets().items()}
    monkeypatch.setattr(shipped, "subsets", lambda: both)
    with pytest.raises(UsageError, match="several recipes; choose one: fedkit build fed-rsic --subset fed-nwpu, or "):
        shipped.load("fed-nwpu")


def test_a_recipe_goes_before_a_subset_of_its_name() -> None:
    for name in shipped.shipped():
        assert shipped.load(name)["name"] == name
    assert not {*shipped.subsets()} & {*shipped.shipped()}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("fedkit tra", ["train"]),
        ("fedkit train fedp", ["fedpgp", "fedprox"]),
        ("fedkit build fed-o", ["fed-optimal"]),
        ("fedkit build fedpg", ["fedpgp-nwpu"]),
        ("fedkit inspect ", ["data/mine"]),
        ("fedkit verify da", ["data/mine"]),
        ("fedkit train fedpgp --manifest da", ["data/mine"]),
        ("fedkit train fedpgp --manifest fedpg", ["fedpgp-nwpu"]),
        ("fedkit train fedpgp --ra", ["--rank"]),
        ("fedkit train promptfl --ra", []),
        ("fedkit train fedpgp --anchor ", ["template", "placeholder"]),
        ("fedkit train fedpg --rank 4 --eval", ["--eval-every"]),
        ("fedkit build fed-rsic --partition domain", ["domain"]),
        ("fedkit list par", ["partitioners"]),
        ("fedkit list exp", ["experiments"]),
        ("fedkit experiment label-", ["label-methods", "label-rates"]),
        ("fedkit flower app x --method fedl", ["fedlgt"]),
    ],
)
def test_a_shell_completes(
    words: str, found: list[str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data/mine").mkdir(parents=True)
    (tmp_path / "data/mine/manifest.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_FEDKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    done = command()
    assert done.stdout.split() == found
    assert done.stderr == ""


def test_completion_is_installed(tmp_path: Path) -> None:
    done = fedkit("--install-completion", "bash", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    script = (tmp_path / ".bash_completions/fedkit.sh").read_text()
    assert "_FEDKIT_COMPLETE=complete_bash" in script


def test_drawing_says_what_it_draws(command: Command, sample_build: Path, tmp_path: Path) -> None:
    name = manifest.load(sample_build).name
    drawn = command("report", sample_build, "--no-images", "--out", tmp_path / "r.html")
    assert drawn.stderr == f"drawing fed-ucmerced of {name} ...\n"
    assert command("inspect", sample_build, "--plot", tmp_path / "plots").stderr == "drawing fed-ucmerced ...\n"
    assert command("report", sample_build, "--no-images", "--json", "--out", tmp_path / "r.html").stderr == ""
