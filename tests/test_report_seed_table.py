"""Tables of experiments: means, spreads, the best, and a test over seeds, in four forms."""

from __future__ import annotations

import csv
import io
import statistics

import numpy as np
import pytest

from fedrsic_data.errors import UsageError
from fedtrain.report.seed_table import FORMS, Cell, Filled, fill, is_ours, paired, written
from fedtrain.runs.results import FLOATS

VALUES = {
    ("fedpgp", "alpha 0.1"): {0: 80.0, 1: 82.0, 2: 84.0},
    ("fedpgp", "alpha 0.5"): {0: 70.0},
    ("local|x", "alpha 0.1"): {0: 81.0, 1: 85.0, 2: 86.0},
    ("zero_shot", "alpha 0.5"): {0: 72.5, 1: 71.5},
}


_METRICS = Filled(
    None,
    "metric",
    ("loss", FLOATS),
    ("a",),
    {("loss", "a"): Cell({0: 0.123, 1: -3.2e9}), (FLOATS, "a"): Cell({0: 2e7})},
)


def table(**more: object) -> Filled:
    return fill("test accuracy", "method", VALUES, **more)  # type: ignore[arg-type]


def test_cells_hold_mean_spread_and_the_best_of_each_column() -> None:
    made = table()
    assert made.rows == ("fedpgp", "local|x", "zero_shot")
    assert made.columns == ("alpha 0.1", "alpha 0.5")
    cell = made.cells["local|x", "alpha 0.1"]
    assert cell.mean == statistics.fmean([81, 85, 86])
    assert cell.std == statistics.stdev([81, 85, 86])
    assert [key for key, cell in made.cells.items() if cell.best] == [
        ("local|x", "alpha 0.1"),
        ("zero_shot", "alpha 0.5"),
    ]
    assert [key for key, cell in table(better="lower").cells.items() if cell.best] == [
        ("fedpgp", "alpha 0.1"),
        ("fedpgp", "alpha 0.5"),
    ]
    assert ("zero_shot", "alpha 0.1") not in made.cells
    assert made.cells["fedpgp", "alpha 0.5"].std is None


def test_the_least_cost_is_the_best() -> None:
    metrics = {"accuracy": "test/local/mean", "floats": FLOATS, "epsilon": "epsilon (central)"}
    values = {(row, column): {0: float(row)} for row in "12" for column in metrics}
    made = fill(metrics, "method", values)
    best = {key for key, cell in made.cells.items() if cell.best}
    assert best == {("2", "accuracy"), ("1", "floats"), ("1", "epsilon")}


def test_equal_means_are_both_the_best() -> None:
    made = fill("m", "method", {("a", "c"): {0: 1.0}, ("b", "c"): {0: 1.0}})
    assert all(cell.best for cell in made.cells.values())


def test_the_paired_test_is_the_exact_sign_flip_test() -> None:
    assert paired({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0}) == 2 / 8
    assert paired({0: 1.0, 1: -1.0}, {0: 0.0, 1: 0.0}) == 1.0
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}) == 1.0
    assert paired({0: 1.0, 1: 2.0}, {7: 1.0}) is None
    rng = np.random.default_rng(0)
    many, none = dict(enumerate(rng.normal(0.3, 1, 16))), dict.fromkeys(range(16), 0.0)
    exact = paired(many, none)
    flips = rng.choice([-1, 1], (200_000, 16)) @ np.array(list(many.values()))
    assert exact == pytest.approx((np.abs(flips) >= abs(sum(many.values()))).mean(), abs=0.01)
    more, nothing = dict(enumerate(rng.normal(0.3, 1, 40))), dict.fromkeys(range(40), 0.0)
    flips = rng.choice([-1, 1], (200_000, 40)) @ np.array(list(more.values()))
    assert paired(more, nothing) == pytest.approx((np.abs(flips) >= abs(sum(more.values()))).mean(), abs=0.03)


def test_rows_are_compared_with_the_one_that_is_named() -> None:
    made = table(against="fedpgp")
    assert made.cells["local|x", "alpha 0.1"].p == 2 / 8
    assert made.cells["fedpgp", "alpha 0.1"].p is None
    assert made.cells["zero_shot", "alpha 0.5"].p is None  # one seed in common
    assert "83.00" not in written(made, "text")
    assert "(p=0.25)" in written(made, "text")
    with pytest.raises(UsageError, match="against='fedavg': is no row"):
        table(against="fedavg")


def test_text_lines_up() -> None:
    lines = written(table(), "text").splitlines()
    assert lines[0].split() == ["method", "alpha", "0.1", "alpha", "0.5"]
    assert "*84.00 ± 2.65*" in lines[2]
    assert "n=1 to 3" in lines[-1]
    assert len({len(line) for line in lines[:2]}) == 1


def test_markdown_escapes_names_and_marks_the_best() -> None:
    text = written(table(), "markdown")
    assert "| local\\|x |" in text
    assert "**84.00 ± 2.65**" in text
    assert "n=1 to 3" in text


def test_csv_holds_every_number_whole() -> None:
    rows = list(csv.DictReader(io.StringIO(written(table(against="fedpgp"), "csv"))))
    assert len(rows) == len(VALUES)
    one = next(row for row in rows if row["row"] == "local|x")
    assert float(one["mean"]) == statistics.fmean([81, 85, 86])
    assert (one["n"], one["p"], one["best"]) == ("3", "0.25", "True")
    alone = next(row for row in rows if (row["row"], row["column"]) == ("fedpgp", "alpha 0.5"))
    assert alone["std"] == ""


def test_latex_is_a_booktabs_table_and_escapes_names() -> None:
    text = written(table(), "latex")
    assert text.startswith("\\begin{tabular}{lrr}\n\\toprule\n")
    assert "zero\\_shot" in text
    assert "local\\textbar{}x" in text
    odd = written(fill("m", "m", {("a&b 50% #1_$ {c}^~\\<>", "x"): {0: 1.0}}), "latex")
    assert "a\\&b 50\\% \\#1\\_\\$ \\{c\\}\\textasciicircum{}\\textasciitilde{}\\textbackslash{}" in odd
    assert "\\textless{}\\textgreater{} & \\textbf{1.00} \\\\" in odd
    assert "\\textbf{84.00 $\\pm$ 2.65}" in text
    assert text.count("\\\\") == 4


def test_rows_that_are_metrics_have_their_own_digits_and_no_best() -> None:
    cells = {("loss", "a"): Cell({0: 0.123}), (FLOATS, "a"): Cell({0: 2048.0})}
    text = written(Filled(None, "metric", ("loss", FLOATS), ("a",), cells), "text")
    assert [line.split()[-1] for line in text.splitlines()[1:3]] == ["0.12", "2,048"]
    assert "best" not in text
    assert text.splitlines()[-1] == "mean ± standard deviation over seeds, n=1"


@pytest.mark.parametrize("form", FORMS)
def test_files_of_every_form_are_known_again(form: str) -> None:
    for made in (table(), table(against="fedpgp"), table(better="lower"), fill("m", "method", {}), _METRICS):
        assert is_ours(written(made, form).encode())


@pytest.mark.parametrize("form", FORMS)
def test_a_file_with_more_than_a_table_of_fedkit_is_somebody_elses(form: str) -> None:
    text = written(table(against="fedpgp"), form)
    assert not is_ours(("My notes\n" + text).encode())
    assert not is_ours((text + "My conclusion: fedpgp wins.\n").encode())
    lines = text.splitlines(keepends=True)
    for at in range(1, len(lines)):
        assert not is_ours("".join([*lines[:at], "years of work\n", *lines[at:]]).encode()), at


def test_a_file_that_only_speaks_of_tables_is_somebody_elses() -> None:
    for text in (
        "my own notes",
        "We give the mean ± standard deviation over seeds, n=5.",
        "row,column,metric,mine\n",
        "",
    ):
        assert not is_ours(text.encode())
        assert not is_ours(text.encode() + b"\xff")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(UsageError, match="--table excel: should be one of text, csv, markdown, latex"):
        written(table(), "excel")


def test_a_table_without_cells_says_so() -> None:
    assert "no runs" in written(fill("m", "method", {}), "text")
