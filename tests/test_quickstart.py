"""The tour on tiny samples: it builds, trains, reports, and is resumed by running it again."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import CONTRAST, LAYOUT, OVERLAPS, opened
from conftest import fedkit, refused
from matplotlib.colors import to_hex
from rich.console import Console

from fedrsic_data.answer import Shown
from fedrsic_data.cli import sample_datasets
from fedrsic_data.errors import UsageError
from fedrsic_data.report.page import Figure
from fedtrain import run
from fedtrain.progress import Listener
from fedtrain.report import html, quickstart

_SHORT = {"fed-ucmerced": ("rounds=2",), "flair": ("rounds=1", "clients_per_round=2", "image_size=64")}


def tour() -> list[quickstart.Part]:
    """The tour with fewer rounds and without the prompt method that takes longest."""
    parts = []
    for part in quickstart.TOUR:
        runs = {m: [*sets, *_SHORT[part.subset]] if sets else sets for m, sets in part.runs.items() if m != "fedpgp"}
        parts.append(replace(part, runs=runs))
    return parts


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    sets = {
        sample_datasets.SCENES: ("sample.per_class=6", "sample.size=32"),
        sample_datasets.PHOTOS: ("sample.users=30", "sample.size=32"),
    }
    return sample_datasets.built(tmp_path_factory.mktemp("tour") / "data", sets)


@pytest.fixture(scope="module")
def toured(datasets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shown]:
    out = tmp_path_factory.mktemp("out")
    return out, quickstart.train_tour(datasets, out, tour=tour(), cache=out / "cache")


def test_the_tour_ends_with_tables_and_a_report(toured: tuple[Path, Shown]) -> None:
    out, shown = toured
    assert Path(shown.data["report"]).stat().st_size == shown.data["bytes"]
    for part in tour():
        table = shown.data["tables"][part.subset]
        assert set(table) == set(part.runs)
        values = [facts[part.figure] for facts in table.values()]
        assert values == sorted(values, reverse=True)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(shown.text)
    text = capture.get()
    assert str(out / "report.html") in text.replace("\n", "")
    assert text.count("procedural sample, not real data") == 2


def test_the_tour_is_resumed(toured: tuple[Path, Shown], datasets: dict[str, Path]) -> None:
    out, shown = toured
    trained: list[Any] = []
    before = Path(shown.data["report"]).read_bytes()
    again = quickstart.train_tour(
        datasets, out, tour=tour(), cache=out / "cache", listener=Listener(round=lambda line, _: trained.append(line))
    )
    assert trained == []
    assert again.data == shown.data
    assert Path(shown.data["report"]).read_bytes() == before


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_its_report_is_readable(toured: tuple[Path, Shown], width: int, scheme: str, browser: Any) -> None:
    with opened(browser, toured[0] / "report.html", width, scheme) as report:
        assert report.run("() => document.querySelectorAll('svg.picture').length") > 15
        assert report.run(LAYOUT) == []
        assert report.run(OVERLAPS) == []
        assert report.run(CONTRAST)["problems"] == []
        assert report.said == []
        assert [url for url in report.asked if not url.startswith(("file://", "data:"))] == []


def test_a_method_has_one_colour_in_all_pictures(toured: tuple[Path, Shown]) -> None:
    page = html.page([toured[0] / "runs"])
    seen: dict[str, set[str]] = {}
    drawn = [block.drawing.figure for s in page.sections for block in s.blocks if isinstance(block, Figure)]
    for axes in (axes for figure in drawn for axes in figure.axes):
        for drawn_line in axes.get_lines():
            label = str(drawn_line.get_label()).removesuffix(": none sent")
            if not label.startswith("_"):
                seen.setdefault(label, set()).add(to_hex(drawn_line.get_color()))
    methods = {m for part in tour() for m in part.runs}
    assert set(seen) == methods
    assert all(len(colors) == 1 for colors in seen.values()), seen
    assert len(set.union(*seen.values())) == len(methods), "two methods share a colour"


def test_a_report_of_runs_prints_figures_as_papers_do(toured: tuple[Path, Shown], datasets: dict[str, Path]) -> None:
    out = toured[0]
    (config,) = run.configs("promptfl", datasets["fed-ucmerced"], ["fed-ucmerced"], ["seed=1", "rounds=2", "lr=0.01"])
    run.train(config, out / "more" / "promptfl-1", cache=out / "cache")
    (section,) = html.page([out / "runs" / "promptfl-fed-ucmerced", out / "more"]).sections
    finals, configs = section.blocks[0], section.blocks[-2]
    (row,) = finals.numbers.rows
    assert row[:2] == ("promptfl", 2)
    assert any(re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", str(cell)) for cell in row)
    assert configs.marked == frozenset(), "seeds alone differ"
    sets = ["seed=1", "rounds=2", "lr=0.02"]
    (config,) = run.configs("local", datasets["fed-ucmerced"], ["fed-ucmerced"], sets)
    run.train(config, out / "other" / "local-1", cache=out / "cache")
    (section,) = html.page([out / "more" / "promptfl-1", out / "other" / "local-1"]).sections
    configs = section.blocks[-2]
    marked = {configs.numbers.rows[i][0] for i in configs.marked}
    assert marked == {"method", "method.lr"}
    assert [row[-1] for row in configs.numbers.rows[:2]] == ["yes", "yes"]
    assert "method.batch" in [row[0] for row in configs.numbers.rows[2:]]


def test_what_cannot_be_reported_is_said(toured: tuple[Path, Shown], tmp_path: Path) -> None:
    out = toured[0]
    done, begun = out / "runs" / "local-fed-ucmerced", tmp_path / "some" / "begun"
    begun.mkdir(parents=True)
    (begun / "config.json").write_bytes((done / "config.json").read_bytes())
    (tmp_path / "some" / "done").symlink_to(done)
    page = html.page([tmp_path / "some", done])
    assert any("not finished and is left out" in words for words in page.words)
    assert len(page.sections) == 1
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in ("config.json", "result.json"):
        (damaged / file).write_bytes((done / file).read_bytes())
    (damaged / "metrics.jsonl").write_text("{not json")
    refused(fedkit("report", damaged, "--out", tmp_path / "r.html"), "metrics.jsonl", "damaged", codes=(1,))
    assert not list(tmp_path.glob("r.html*"))


def test_an_address_is_no_folder() -> None:
    with pytest.raises(UsageError, match="is a URL; give a local folder"):
        sample_datasets.built(Path("hf://me/fed"))
