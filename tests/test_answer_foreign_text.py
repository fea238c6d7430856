"""What foreign names, titles and addresses become where they are shown or kept: text, whatever they hold."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import ROOT, fedkit, printed, refused
from rich.console import Console

from fedrsic_data import answer
from fedrsic_data.cli import console
from fedrsic_data.dataset import manifest
from fedrsic_data.errors import FedkitError, UsageError, masked, masked_in
from fedrsic_data.publish.card import render
from fedtrain import config
from fedtrain.report import answers, live
from fedtrain.runs.results import Group, Spread

EVIL = "\x1b]0;owned\x07\x1b[2J=cmd|x`\n\u202e[red]@me"
LOGIN = "s3://KEY:SuPerSecret@bucket/x"
STEERING = ("\x1b", "\x07", "\u202e")


def group(name: str) -> Group:
    spread = Spread(-1.5, None, -1.5, -1.5, 1)
    figures = {name: spread, "test/accuracy": spread}
    known = {"sample": False, "sources": (), "titles": {}, "partition": "iid", "labels": "", "seeds": (0,)}
    return Group(label=name, subset=name, dataset=name, figures=figures, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["text", "markdown", "csv", "json"])
def test_no_form_of_a_comparison_steers_a_terminal(form: str) -> None:
    words = printed(answers.compared([group(EVIL)], form).text)
    assert "owned" in words
    assert not [c for c in STEERING if c in words]


def test_a_markdown_table_keeps_its_columns_whatever_a_label_holds() -> None:
    words = printed(answers.compared([group("a|b\\|c\nd <script> ![x](http://x)")], "markdown").text)
    rows = [line for line in words.splitlines() if line.startswith("|")]
    bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in rows]
    assert bars == [3] * 4
    assert "<script>" not in words
    assert "![" not in words


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\uff1d"])
def test_no_text_of_a_csv_file_is_a_formula_and_numbers_stay_numbers(start: str) -> None:
    words = printed(answers.compared([group(f"{start}HYPERLINK(1)")], "csv").text)
    rows = list(csv.reader(io.StringIO(words)))
    assert [cell[0] for row in rows[1:] for cell in row[:3]] == ["'" if start != "\t=" else "\\"] * 6
    assert {row[4] for row in rows[1:]} == {"-1.5"}


def test_progress_bars_and_curves_take_names_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("rich.progress.Progress.update", lambda *_, description, **__: seen.append(description))
    with console.bars(quiet=False) as bar:
        bar(EVIL)(1, 2)
        bar("images")(1, 2, EVIL)
    assert len(seen) == 2
    lines = [{"round": 1, "loss": 0.5, "figures": {EVIL: 1.0}}, {"round": 2, "loss": 0.4, "figures": {EVIL: 2.0}}]
    seen.append(printed(live._drawn("", live.curves(lines))))
    assert not [words for words in seen if any(c in words for c in STEERING)]


def test_bars_show_brackets_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made = io.StringIO()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("rich.console.Console", partial(Console, file=made, force_terminal=True, width=99))
    with console.bars(quiet=False) as bar:
        bar("images")(1, 2, "a [red]b")
    assert "a [red]b" in made.getvalue()


def test_steps_notes_and_errors_are_lines_without_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    console.telling(quiet=False)(EVIL)
    console.say(EVIL)
    with pytest.raises(SystemExit):
        console.run_app(lambda **_: (_ for _ in ()).throw(UsageError(EVIL)))
    said = capsys.readouterr().err
    assert said.count("\n") == 3
    assert not [c for c in STEERING if c in said]


def test_headings_of_tables_are_text(sample_build: Path) -> None:
    words = printed(answer.table([f"[bold]{EVIL}", "b"], [["1", "2"]]))
    assert "[bold]" in words
    assert not [c for c in STEERING if c in words]


def test_json_is_ascii_and_holds_no_password() -> None:
    words = answer.as_json({"a": [EVIL + "\x7f", {LOGIN: LOGIN}], "b": 1.5, "c": None})
    assert words.isascii()
    assert words.isprintable()
    assert "SuPerSecret" not in words
    assert json.loads(words)["a"][0] == EVIL + "\x7f"


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        ("s3:/KEY:SuPer/Secret@bucket/x", "s3:/KEY:***@bucket/x"),
        ("https://hf_SuPerSecret@huggingface.co/x", "https://***@huggingface.co/x"),
        ("hf://SuPerSecret@me/fed", "hf://***@me/fed"),
        ("hf://me:SuPerSecret@huggingface.co/fed", "hf://me:***@huggingface.co/fed"),
        ("ray://me:SuPerSecret@host:10001", "ray://me:***@host:10001"),
        ("hf://me/fed@main", "hf://me/fed@main"),
        ("abfs://container@account/x", "abfs://container@account/x"),
        ("https://medium.com/@me", "https://medium.com/@me"),
    ],
)
def test_addresses_are_masked_also_inside_of_words(address: str, seen: str) -> None:
    assert masked(address) == seen
    for before, after in (("", ": does not exist"), ("--source a=", ": no"), ("'", "': no"), ("(", "); see x")):
        assert masked_in(before + address + after) == before + seen + after
        assert str(FedkitError(before + address + after)) == before + seen + after


LOGINS = [
    ["train", "fedpgp", "--manifest", LOGIN],
    ["train", "fedpgp", "--manifest", "DATASET", "--out", LOGIN],
    ["train", "fedpgp", "--manifest", "DATASET", "--set", f"clip=ViT-B-16:{LOGIN}"],
    ["train", "fedpgp", "--manifest", "DATASET", "--set", f"flower.ray_address={LOGIN}"],
    ["train", "fedpgp", "--manifest", "fed-rsic", "--sources", LOGIN],
    ["train", LOGIN, "--manifest", "DATASET"],
    ["train", "fedpgp", "--manifest", "hf://me:SuPerSecret@huggingface.co/fed"],
    ["report", LOGIN],
    ["report", "DATASET", "--out", LOGIN + ".html"],
    ["compare", LOGIN],
    ["compare", "DATASET", "--format", LOGIN],
    ["inspect", LOGIN],
    ["inspect", "DATASET", "--plot", LOGIN],
    ["inspect", "DATASET", "--subset", LOGIN],
    ["verify", LOGIN],
    ["publish", LOGIN, "--repo", "me/fed"],
    ["publish", "DATASET", "--repo", "https://me:SuPerSecret@huggingface.co/me/fed"],
    ["publish", "DATASET", "--repo", "me/fed", "--revision", LOGIN],
    ["resplit", LOGIN, "--out", "x"],
    ["resplit", "DATASET", "--out", LOGIN],
    ["split-sites", LOGIN, "--out", "x"],
    ["split-sites", "DATASET", "--out", LOGIN],
    ["build", LOGIN],
    ["build", "hf://me:SuPerSecret@huggingface.co/fed"],
    ["build", "fed-rsic", "--sources", LOGIN],
    ["build", "fed-rsic", "--source", f"ucmerced={LOGIN}", "--subset", "fed-ucmerced"],
    ["build", "fed-rsic", "--ray-address", LOGIN],
    ["build", "fed-rsic", "--engine", LOGIN],
    ["build", "fed-rsic", "--set", f"partition.name={LOGIN}"],
    ["new", LOGIN, "--folder", "DATASET"],
    ["new", "my.json", "--folder", LOGIN],
    ["new", "my.json", "--hub", "https://me:SuPerSecret@huggingface.co/datasets/me/fed"],
    ["new", "my.json", "--hub", "hf://me:SuPerSecret@huggingface.co/fed"],
    ["new", "my.json", "--parquet", LOGIN],
    ["quickstart", "--out", LOGIN],
    ["flower", "app", LOGIN, "--method", "fedpgp", "--manifest", "DATASET"],
    ["flower", "app", "app", "--method", "fedpgp", "--manifest", LOGIN],
    ["flower", "app", "app", "--method", "fedpgp", "--manifest", "DATASET", "--out", LOGIN],
    ["flower", "run", LOGIN],
    ["list", LOGIN],
    ["--no-such", LOGIN],
]


@pytest.fixture(scope="module")
def cli() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fedkit_cli", ROOT / "cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(cli: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The command without a process of its own."""
    monkeypatch.setenv("FEDKIT_DEBUG", "0")

    def run(*words: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["fedkit", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=stopped.value.code, stdout=out, stderr=err)

    return run


@pytest.mark.parametrize("words", LOGINS, ids=lambda words: " ".join(words).replace("/", "-")[:70])
def test_a_login_in_an_address_is_said_and_kept_nowhere(
    command: Callable[..., Any], words: list[str], sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = command(*(str(sample_build) if word == "DATASET" else word for word in words))
    refused(done)
    assert done.returncode in (1, 2)
    assert "this is a bug" not in done.stderr
    assert "SuPerSecret" not in done.stdout + done.stderr
    assert os.listdir(tmp_path / "here") == []


def test_an_address_as_a_cache_is_refused(tmp_path: Path) -> None:
    done = fedkit("build", "fed-rsic", "--subset", "fed-ucmerced", cwd=tmp_path, FEDKIT_CACHE=LOGIN)
    refused(done, "FEDKIT_CACHE s3://...: is a URL", codes=(2,))
    assert os.listdir(tmp_path) == []


def test_no_config_takes_a_login_of_an_address() -> None:
    with pytest.raises(UsageError, match=r"clip=ViT-B-16:s3://KEY:\*\*\*@bucket"):
        config.RunConfig("fedpgp", "data", "one", clip=f"ViT-B-16:{LOGIN}")
    with pytest.raises(UsageError, match=r"weights=s3://KEY:\*\*\*@bucket"):
        config.RunConfig("fedpgp", "data", "one", method_settings={"weights": LOGIN})
    with pytest.raises(UsageError, match=r"flower.ray_address=ray://me:\*\*\*@host"):
        config.FlowerSettings(ray_address="ray://me:SuPerSecret@host:1")
    config.RunConfig("fedpgp", "hf://me/fed@main", "one", clip="ViT-B-16:/models/a@b?c=d.pt")


@pytest.mark.parametrize(
    ("licence", "name"),
    [
        ("MIT", "mit"),
        ("CC BY 4.0", "cc-by-4.0"),
        ("CC-BY-SA-4.0", "cc-by-sa-4.0"),
        ("CC0", "cc0-1.0"),
        ("Apache-2.0", "apache-2.0"),
        ("MIT Lincoln Laboratory licence: research only", "other"),
        ("MIT, but not for you", "other"),
        ("CC BY 4.0 for the annotations", "other"),
        ("CC0 where the law allows", "other"),
        ("Apache-2.0, rendered by someone", "other"),
        ("", "other"),
    ],
)
def test_a_licence_is_known_by_all_of_its_name(sample_build: Path, licence: str, name: str) -> None:
    built = manifest.load(sample_build)
    sources = {key: replace(source, licence=licence) for key, source in built.sources.items()}
    card = render(replace(built, sources=sources), "me/fed", "plan-x", ())
    assert yaml.safe_load(card.split("---\n")[1])["license"] == name
    assert f"Licence: {licence}." in card
