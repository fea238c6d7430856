"""A report opens in a browser: from one file, readable, sortable, and whatever names its data have."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import CONTRAST, LAYOUT, OVERLAPS, opened
from conftest import answer, contents, fedkit, make, refused, resealed, sampled
from PIL import Image

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.cli import new_recipe
from fedrsic_data.dataset import images, manifest, schema
from fedrsic_data.dataset.recipe import SAMPLE_WARNING
from fedrsic_data.errors import BadImageError, ManifestError, OutputError
from fedrsic_data.report import contact_sheet
from fedrsic_data.report.dataset import sections
from fedrsic_data.report.page import PAGE_ROWS, Page, Section, Sheet, Table, Thumbnail, render
from fedrsic_data.report.style import Numbers
from fedrsic_data.sources.locate import Places
from fedtrain.report.html import report as write_report

HOSTILE = (
    "<script>document.title='owned'</script>",
    "\"><img src=x onerror=document.title='owned'>",
    "</script><script>document.title='owned'</script>",
    "quote ' and \" and & and {{ 7 * 7 }} and ${x} and $x^2$",
    "\u202eright to left\u202c",
    "شارع المدينة",
    "\N{DESERT}\N{HOUSE BUILDING} \N{FAMILY}",
    "long-" + "x" * 295,
)


def html(dataset: Path, out: Path) -> Path:
    opened_ = fedrsic_data.open(dataset)
    out.write_text(
        render(Page("Report", ("Of a test.",), sections(opened_), f"Sample data: {SAMPLE_WARNING}")), "utf-8"
    )
    return out


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several domains, ten clients."""
    return sampled(tmp_path_factory.mktemp("built") / "fed", "domain_mix=0.3", subset="fed-domains").path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Multi-label images, and more clients than a table shows at once."""
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.size=32"])
    out = tmp_path_factory.mktemp("built") / "flair"
    return pipeline.build(pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True)), out).path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder dataset whose classes have names that a page must survive; clients get such names too."""
    root = tmp_path_factory.mktemp("hostile")
    names = [name.replace("/", "\N{DIVISION SLASH}")[:80] for name in HOSTILE]
    for c, name in enumerate(names):
        (root / "pictures" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (24, 24), (c * 30, i * 40, 90)).save(root / "pictures" / name / f"{i}.png")
    drafted = new_recipe.draft(
        new_recipe.settings(str(root / "pictures"), None, None), "hostile", clients=8, offline=True
    )
    wanted = recipes.from_json(drafted.recipe, "test")
    return renamed(pipeline.build(pipeline.prepare(wanted, Places(offline=True)), root / "out").path)


def renamed(folder: Path) -> Path:
    """Gives the clients hostile names in both tables, which the page must not trust."""
    for path in (folder / "clients.parquet", folder / "plan.parquet"):
        table = pq.read_table(path)
        ids = table.column("client_id").to_pylist()
        names = dict(zip(sorted(set(ids)), HOSTILE, strict=False))
        at = table.column_names.index("client_id")
        pq.write_table(table.set_column(at, "client_id", pa.array([names[i] for i in ids], pa.string())), path)
    return resealed(folder)


@pytest.fixture(scope="module")
def pages(domains: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of both."""
    out = tmp_path_factory.mktemp("pages")
    return {"domains": html(domains, out / "domains.html"), "photos": html(photos, out / "photos.html")}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("which", "pictures"), [("domains", 4), ("photos", 5)])
def test_a_report_is_readable(
    which: str, pictures: int, width: int, scheme: str, pages: dict[str, Path], browser: Any
) -> None:
    with opened(browser, pages[which], width, scheme) as report:
        assert report.run("() => document.querySelectorAll('svg.picture').length") == pictures
        assert report.run(LAYOUT) == []
        assert report.run(OVERLAPS) == []
        contrast = report.run(CONTRAST)
        assert contrast["seen"] > 100
        assert contrast["problems"] == []
        background = report.run("() => getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(254, 254, 254)", "dark": "rgb(20, 23, 26)"}[scheme]
        report.run("() => [...document.images].forEach((image) => { image.loading = 'eager'; })")
        report.page.wait_for_function(
            "() => [...document.images].every((image) => image.complete && image.naturalWidth)"
        )
        assert report.said == []
        assert [url for url in report.asked if not url.startswith(("file://", "data:"))] == []


def test_hostile_names_stay_names(hostile: Path, tmp_path: Path, browser: Any) -> None:
    file = html(hostile, tmp_path / "report.html")
    text = file.read_text("utf-8")
    assert "<script>document" not in text
    assert "<img src=x" not in text
    for width in (1280, 390):
        with opened(browser, file, width) as report:
            assert report.page.title() == "Report"
            assert report.run("() => document.querySelectorAll('script').length") == 1
            assert report.run("() => document.querySelectorAll('img[onerror]').length") == 0
            assert report.run(LAYOUT) == []
            assert report.run(OVERLAPS) == []
            cells = report.run("() => [...document.querySelectorAll('td bdi')].map((one) => one.textContent)")
            held = fedrsic_data.open(hostile).subset("hostile")
            assert set(held.classes) | set(held.clients) <= set(cells)
            assert report.said == []


def test_tables_are_sorted_by_keyboard(domains: Path, tmp_path: Path, browser: Any) -> None:
    file = html(domains, tmp_path / "report.html")
    column = """(c) => [...[...document.querySelectorAll('div.table')].find((one) => one.querySelector('caption')
        .textContent === 'Clients').querySelectorAll('tbody tr')].map((row) => row.cells[c].textContent)"""
    with opened(browser, file) as report:
        head = report.page.locator("div.table", has=report.page.locator("caption", has_text=re.compile("^Clients$")))
        report.run("() => document.querySelector('.scroll').focus()")
        caption = "() => document.activeElement.closest('.table')?.querySelector('caption').textContent"
        for _ in range(80):  # every header is reached by the key that moves on
            report.page.keyboard.press("Tab")
            if report.run(caption) == "Clients":
                break
        focused = "() => document.activeElement.closest('th')?.textContent"
        for _ in range(4):
            if report.run(focused) == "train":
                break
            report.page.keyboard.press("Tab")
        assert report.run(focused) == "train"
        outline = report.run("() => getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "the focus is not seen"
        before = [int(text) for text in report.run(column, 1)]
        for key, state, reverse in (("Enter", "descending", True), ("Space", "ascending", False)):
            report.page.keyboard.press(key)
            assert head.locator("th").nth(1).get_attribute("aria-sort") == state
            assert [int(text) for text in report.run(column, 1)] == sorted(before, reverse=reverse)
        assert head.locator("th[aria-sort]").count() == 1


def test_a_long_table_is_paged_sorted_and_searched(photos: Path, tmp_path: Path, browser: Any) -> None:
    from playwright.sync_api import expect

    file = html(photos, tmp_path / "report.html")
    subset = fedrsic_data.open(photos).subset("flair")
    with opened(browser, file, 390) as report:
        block = report.page.locator("div.table", has=report.page.locator("caption", has_text=re.compile("^Clients$")))
        first = block.locator("tbody tr td:first-child")
        assert first.count() == PAGE_ROWS
        seen = first.all_inner_texts()
        while block.get_by_role("button", name="next").is_enabled():
            block.get_by_role("button", name="next").press("Enter")
            seen += first.all_inner_texts()
        assert sorted(seen) == sorted(subset.clients)
        block.get_by_role("button", name="train").press("Enter")
        shown = [int(text) for text in block.locator("tbody tr td:nth-child(2)").all_inner_texts()]
        assert shown == sorted((subset.client(c).rows("train") for c in subset.clients), reverse=True)[:PAGE_ROWS]
        block.get_by_role("searchbox").fill(subset.clients[7].upper())
        expect(first).to_have_text([subset.clients[7]])
        assert report.said == []


def test_a_page_for_fifty_thousand_clients_is_small_and_scrolls(tmp_path: Path, browser: Any) -> None:
    from playwright.sync_api import expect

    dataset = many(tmp_path / "many", 51_414)
    file = html(dataset, tmp_path / "report.html")
    assert file.stat().st_size < 5e6
    with opened(browser, file, 390) as report:
        assert report.run("() => document.querySelectorAll('*').length") < 12_000
        assert "51,414" in report.page.locator("div.table[data-paged] [role=status]").first.inner_text()
        assert report.run(LAYOUT) == []
        assert report.run(OVERLAPS) == []
        report.run("() => window.scrollTo({top: 1e9, behavior: 'instant'})")
        assert report.run("() => window.scrollY + innerHeight >= document.documentElement.scrollHeight - 2")
        block = report.page.locator("div.table[data-paged]").first
        block.get_by_role("searchbox").fill("user-51413")
        expect(block.locator("tbody tr td:first-child")).to_have_text(["user-51413"])
        assert report.said == []


def many(folder: Path, clients: int) -> Path:
    """The tables of a dataset of so many users: manifest, client table and plan; its shards are not there."""
    small = sampled(folder.with_name("small")).path
    entry = manifest.load(small)
    name, subset = next(iter(entry.subsets.items()))
    rng = np.random.default_rng(0)
    rows = np.minimum(1 + rng.pareto(1.1, clients).astype(int) * 2, 400)
    labels = [np.flatnonzero(rng.random(len(subset.classes)) < 0.2).astype(np.int32) for _ in range(clients)]
    ids = [f"user-{i:05d}" for i in range(clients)]
    split = np.tile(["train", "test"], clients)
    twice = np.repeat(np.arange(clients), 2)
    held = np.where(split == "train", rows[twice], 0)
    lists = [labels[c] if s == "train" else labels[c][:0] for c, s in zip(twice, split, strict=True)]
    table = pa.table(
        {
            "subset": [name] * len(twice),
            "client_id": [ids[c] for c in twice],
            "split": split,
            "file": pa.nulls(len(twice), pa.string()),
            "row_group": np.zeros(len(twice), np.int32),
            "row_groups": np.zeros(len(twice), np.int32),
            "rows": held,
            "bytes": held,
            "labels": pa.array(lists, pa.list_(pa.int32())),
            "counts": pa.array([rng.integers(1, 9, len(some)) for some in lists], pa.list_(pa.int64())),
            "domains": [["flickr"] if n else [] for n in held],
            "domain_counts": [[n] if n else [] for n in held],
        },
        schema=schema.CLIENTS_SCHEMA,
    )
    folder.mkdir()
    pq.write_table(table, folder / "clients.parquet")
    pq.write_table(schema.PLAN_SCHEMA.empty_table(), folder / "plan.parquet")
    changed = replace(subset, clients=clients, rows={"train": int(rows.sum()), "test": 0}, shards=())
    (folder / manifest.NAME).write_text(manifest.dumps(replace(entry, subsets={name: changed})), "utf-8")
    return resealed(folder)


def test_the_policy_allows_one_script() -> None:
    text = render(Page("x"))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'", policy)
    assert "unsafe-inline" not in policy.split("script-src")[1]
    assert not re.search(r"https?://", text)


def test_the_same_dataset_gives_the_same_page(domains: Path, tmp_path: Path) -> None:
    assert html(domains, tmp_path / "a.html").read_bytes() == html(domains, tmp_path / "b.html").read_bytes()


def test_data_of_a_long_table_cannot_end_its_script() -> None:
    rows = tuple((f"</script>{i}", i, i / 3 if i % 2 else None) for i in range(2 * PAGE_ROWS + 1))
    table = Table("t", Numbers(("a", "b", "c"), rows), digits=2)
    assert table.paged
    assert "<" not in table.data
    a, b, c = json.loads(table.data)
    assert a["values"][3] == "</script>3"
    assert b == {"digits": 0, "values": list(range(2 * PAGE_ROWS + 1))}
    assert c["values"][:2] == [None, 0.33]


def test_a_contact_sheet_shows_what_it_says(domains: Path) -> None:
    subset = fedrsic_data.open(domains).subset("fed-domains")
    sheet = contact_sheet.sheet(subset, each=2)
    assert sheet == contact_sheet.sheet(subset, each=2)
    assert len(sheet.columns) == 3
    train = subset.read("train", ["image", "label", "domain", "sample_id"]).to_pylist()
    known = {row["sample_id"]: row for row in train}
    for name, cells in sheet.rows:
        for domain, shots in zip(sheet.columns, cells, strict=True):
            for shot in shots:
                row = known[shot.words.rpartition(", ")[2].rstrip(")")]
                assert subset.classes[row["label"]] == name
                assert row["domain"] == domain
                small = Image.open(io.BytesIO(shot.jpeg or b""))
                assert max(small.size) <= contact_sheet.SIDE
                whole = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"), float)
                assert np.abs(whole.mean((0, 1)) - np.asarray(small, float).mean((0, 1))).max() < 12
    assert len({shot.words for _, cells in sheet.rows for shots in cells for shot in shots}) > 50


def test_thumbnails_are_bounded() -> None:
    file = io.BytesIO()
    Image.new("1", (6000, 5000)).save(file, "PNG")
    with pytest.raises(BadImageError, match="too many to show"):
        images.thumbnail(file.getvalue(), "big.png", 84)
    with pytest.raises(BadImageError, match="empty"):
        images.thumbnail(b"", "none.png", 84)
    sheet = Sheet("s", ("d",), (("c", ((Thumbnail(None, "a <b> reason"),),)),))
    assert "a &lt;b&gt; reason" in render(Page("x", sections=(Section("s", "s", (), (sheet,)),)))


def test_the_command_writes_a_report(sample_build: Path, tmp_path: Path) -> None:
    out = tmp_path / "below" / "report.html"
    facts = answer(fedkit("report", sample_build, "--out", out, "--json"))
    assert facts["bytes"] == out.stat().st_size
    assert answer(fedkit("report", sample_build, "--out", out, "--no-images", "--json"))["bytes"] < facts["bytes"]
    assert "<img" not in out.read_text("utf-8")
    refused(fedkit("report", sample_build, "--out", tmp_path / "report.txt"), "--out", ".html", codes=(2,))
    other = tmp_path / "mine.html"
    other.write_text("<p>mine</p>")
    refused(fedkit("report", sample_build, "--out", other), "is not a report of fedkit", codes=(1,))
    assert other.read_text() == "<p>mine</p>"
    refused(fedkit("report", tmp_path / "nowhere", "--out", out), "does not exist", codes=(1,))


def test_pages_of_subsets_without_rows(tmp_path: Path, browser: Any) -> None:
    built = make(tmp_path / "fed", sample=True, sets=["sample.per_class=3", "sample.size=32", "clients=50"])
    with opened(browser, html(built.path, tmp_path / "report.html"), 390) as report:
        assert report.run(LAYOUT) == []
        assert report.said == []


@pytest.mark.parametrize("policy", ["default-src 'self'", "default-src 'none'"])
def test_a_page_of_somebody_else_stays(sample_build: Path, tmp_path: Path, policy: str) -> None:
    """Also one that has a policy of its own, and one behind a link."""
    page = f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta http-equiv="Content-Security-Policy" content="{policy}">'
    (tmp_path / "mine.html").write_text(page)
    with pytest.raises(OutputError, match="mine.html: already exists and is not a report of fedkit"):
        write_report([sample_build], tmp_path / "mine.html", images=False)
    write_report([sample_build], tmp_path / "report.html", images=False)
    (tmp_path / "link.html").symlink_to(tmp_path / "report.html")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="link.html: is a link"):
        write_report([sample_build], tmp_path / "link.html")
    assert contents(tmp_path) == before
    assert (tmp_path / "link.html").is_symlink()
    write_report([sample_build], tmp_path / "report.html", images=False)  # a report is replaced


def test_nothing_but_the_report_is_written(sample_build: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "r.html.tmp").symlink_to(victim)
    write_report([sample_build], tmp_path / "r.html", images=False)
    assert victim.read_text() == "mine"
    assert (tmp_path / "r.html").is_file()
    assert not (tmp_path / "r.html").is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="has no pipes with names")
def test_outputs_that_are_no_files(sample_build: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.html")
    with pytest.raises(OutputError, match=r"pipe.html: is not a regular file"):
        write_report([sample_build], tmp_path / "pipe.html")
    with pytest.raises(OutputError, match=r"cannot be written .File name too long"):
        write_report([sample_build], tmp_path / ("x" * 300 + ".html"))
    with pytest.raises(ManifestError, match=r"cannot be read .File name too long"):
        write_report([tmp_path / ("x" * 300)], tmp_path / "r.html")
    assert not list(tmp_path.glob("r.html*"))
