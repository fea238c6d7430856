"""Experiments that come with fedkit: each runs on the sample for a round, and ends with its tables as LaTeX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import printed

from fedtrain import published
from fedtrain.experiments import answers, run, spec

PROTOCOLS = [name for name, path in spec.shipped().items() if spec.load(path).protocol is not None]


def short(name: str) -> spec.Experiment:
    """An experiment on the sample, with one round and one seed."""
    wanted = spec.on_sample(spec.load(name))
    return replace(wanted, seeds=wanted.seeds[:1], set={**wanted.set, "rounds": 1})


@pytest.mark.slow
@pytest.mark.parametrize("name", spec.shipped())
def test_an_experiment_runs_a_round_on_the_sample_and_ends_with_its_tables_as_latex(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = short(name)
    done = run.run(wanted, tmp_path / "out")
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
