"""Experiments that come with fedkit: each runs on the sample for a round, and ends with its tables as LaTeX.

The gate runs some of them; ``pytest -m "whole or not whole" tests/test_experiments_shipped.py`` runs all.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, printed
from safetensors.torch import save_file

from fedrsic_data.errors import UsageError
from fedtrain.experiments import answers, run, spec
from fedtrain.models import label_transformer

IN_THE_GATE = ("fedlgt-voc", "fedpgp-base-to-novel", "fedpgp-cifar100", "fedtpg")
EXPERIMENTS = [pytest.param(name, marks=() if name in IN_THE_GATE else pytest.mark.whole) for name in spec.shipped()]


def short(name: str) -> spec.Experiment:
    """An experiment on the sample, with one round and one seed."""
    wanted = spec.on_sample(spec.load(name))
    methods = (spec.MethodSpec(one) if isinstance(one, str) else one for one in wanted.methods)
    once = tuple(replace(one, set={key: its for key, its in one.set.items() if key != "rounds"}) for one in methods)
    return replace(wanted, seeds=wanted.seeds[:1], set={**wanted.set, "rounds": 1}, methods=once)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs_a_round_on_the_sample_and_ends_with_its_tables_as_latex(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(label_transformer.backbone().state_dict(), "backbone.safetensors")
    wanted = short(name)
    done = run.run(wanted, tmp_path / "out", cache=tmp_path / "cache")
    assert not done.failed
    assert len(done.tables) == len(wanted.tables)
    assert all(cell.values for table in done.tables for cell in table.cells.values())
    lines = printed(answers.finished(done, "text").text, 400).rstrip().splitlines()
    assert lines[-2] == "\\end{tabular}"
    assert lines[-1].startswith("% ")
    if wanted.protocol is not None:
        assert not done.published  # nothing that was measured on sample images stands beside a paper's figure
        for line in done.apart:
            assert "real images" in line


def test_the_docs_list_every_experiment_with_its_number_of_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    for name in spec.shipped():
        assert f"| `{name}` | {len(run.planned(spec.load(name), tmp_path)[1])} |" in text


def test_an_experiment_on_the_sample_has_a_name_and_settings_of_its_own() -> None:
    real = spec.load("fedrsclip-fed-rsic")
    wanted = spec.on_sample(real)
    assert wanted.name == f"{real.name}-sample"
    assert all(data.sample for data in wanted.datasets)
    assert not any(data.sample for data in real.datasets)
    assert real.sample is not None
    assert wanted.seeds == real.sample.seeds == (0,)
    assert wanted.set == {**real.set, **real.sample.set}
    assert all(data.set["sample.size"] == 32 for data in wanted.datasets)
    plain = replace(real, sample=None)
    assert spec.on_sample(plain).set == real.set
    assert spec.on_sample(plain).seeds == real.seeds


def test_a_protocol_that_no_paper_published_is_refused() -> None:
    with pytest.raises(UsageError, match="no published protocol 'fedmgp'"):
        spec.ProtocolSpec("FedMGP", (), (), ("fedmgp",))


def test_an_answer_says_the_protocol_and_prints_published_figures_below_the_tables(tmp_path: Path) -> None:
    done = run.Finished(
        tmp_path,
        runs=(),
        failed={},
        tables=(),
        protocol=spec.ProtocolSpec("FedMGP", ("Rounds are 10.",), ("The seed is 0.",)),
        published={
            "pets, beside FedMGP": {"fedpgp (ours)": {"local": "50.00"}, "FedPGP": {"local": "96.20", "CM": "9"}}
        },
        apart=("figures of FedTPG are not printed",),
    )
    shown = answers.finished(done, "text")
    text = printed(shown.text, 200)
    parts = [
        "pets, beside FedMGP",
        "50.00",
        "96.20",
        "protocol: FedMGP",
        "certain: Rounds",
        "assumed: The seed",
        "FedTPG",
    ]
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)
    assert shown.data["published"]["tables"] == done.published
    assert shown.data["protocol"]["assumed"] == ["The seed is 0."]
    latex = printed(answers.finished(done, "latex").text, 200)
    assert "FedMGP" not in latex  # a file of tables holds tables alone


@pytest.mark.parametrize("empty", [{"of": " "}, {"certain": ("",)}, {"assumed": ("we assume", "")}])
def test_a_protocol_says_something(empty: dict[str, Any]) -> None:
    given: dict[str, Any] = {"of": "a paper", "certain": ("it is so",), "assumed": ()}
    spec.ProtocolSpec(**given)
    with pytest.raises(UsageError, match="of, certain or assumed has an empty text"):
        spec.ProtocolSpec(**given | empty)
