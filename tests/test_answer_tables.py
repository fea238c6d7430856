"""Tables on terminals of any width."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Command, fedkit, printed, sampled

from fedrsic_data.answer import columns, records
from fedtrain.report import seed_table
from fedtrain.report.seed_table import Cell, Filled

HEADER = ["figure", "fedpgp (2 runs)", "fedrsclip", "kgcoop", "promptfl with lr 0.01 (2 runs)", "zeroshot"]
ROWS = [
    ["test/local/worst_decile", "71.21 ± 2.14", "69.70", "72.73", "69.70 ± 4.29", "72.73"],
    ["sent/floats per client and round", "2,048", "512", "2,048", "2,048", "0"],
]


def widest(text: str) -> int:
    return max(len(line.rstrip()) for line in text.splitlines())


@pytest.mark.parametrize("width", [48, 60, 80, 100, 160])
def test_columns_that_do_not_fit_go_into_further_tables(width: int) -> None:
    text = printed(columns(HEADER, ROWS), width)
    assert widest(text) <= width
    for cell in [cell for row in ROWS for cell in row[1:]]:
        assert re.search(rf"(?<!\S){re.escape(cell)}(?!\S)", text), f"{cell} is broken"
    words = {word for name in HEADER for word in name.split()}
    assert words <= set(text.split()), "a name of a column is broken or missing"
    tables = text.count("figure")
    assert text.count("test/local/worst_decile") == tables, "each table names its rows"
    assert (tables == 1) == (width >= 100)


def test_a_wide_terminal_breaks_nothing() -> None:
    lines = printed(columns(HEADER, ROWS), 160).splitlines()
    assert re.search(
        "figure +fedpgp \\(2 runs\\) +fedrsclip +kgcoop +promptfl with lr 0.01 \\(2 runs\\) +zero", lines[1]
    )
    assert re.search("sent/floats per client and round +2,048", lines[4])


def test_a_list_becomes_paragraphs_where_columns_would_be_narrow() -> None:
    rows = [
        {"source": "coco", "layout": "annotations/instances_{train,val}2017.json", "licence": "CC BY 4.0", "note": ""},
        {"source": "own", "package": "mine 1", "problem": "cannot be imported"},
    ]
    narrow = [line.rstrip() for line in "".join(printed(part, 60) for part in records(rows)).splitlines()]
    assert narrow == [
        "coco",
        "  layout: annotations/instances_{train,val}2017.json",
        "  licence: CC BY 4.0",
        "own (mine 1): cannot be imported",
    ]
    assert "source" in printed(records(rows)[0], 100), "the head of a table"


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("what", ["recipes", "sources", "partitioners", "methods", "experiments"])
def test_lists_fit(what: str, width: int, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = command("list", what).stdout
    assert widest(text) <= width
    if what == "methods":
        assert re.search("fedlgt[^_]*multi-label", text)
        assert re.search("fedpgp[^_]*single-label", text)


def test_clients_of_a_dataset_lose_what_has_no_room(tmp_path: Path) -> None:
    built = sampled(tmp_path / "x", "clients=4", subset="fed-domains").path
    texts = {width: fedkit("inspect", built, COLUMNS=str(width)).stdout for width in (60, 100, 160)}
    for width, text in texts.items():
        table = [line for line in text.splitlines() if line.strip().startswith(("client", "─"))]
        assert max(map(len, (line.rstrip() for line in table))) <= width
        assert "…" not in text
        assert "train labels" in text
    assert "domains" in texts[100]
    assert "largest" not in texts[60]
    assert "largest" in texts[160]


def test_a_table_over_seeds_fits_too() -> None:
    cells = {
        (row, f"alpha 0.{i}"): Cell({0: 50.0 + i, 1: 52.0}, best=row == "fedpgp")
        for row in ("fedpgp", "local")
        for i in range(8)
    }
    table = Filled("test/local/mean", "method", ("fedpgp", "local"), tuple(f"alpha 0.{i}" for i in range(8)), cells)
    text = "".join(printed(part, 60) for part in seed_table.on_screen(table))
    assert widest(text) <= 60
    for i in range(8):
        assert f"alpha 0.{i}" in text
    assert text.count("local ") == text.count("method ") > 1
