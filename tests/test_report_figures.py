"""Pictures of a partition: true to the counts, the same bytes every time, told apart by every eye."""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import answer, contents, fedkit, refused, sampled
from PIL import Image

import fedrsic_data
from fedrsic_data.errors import OutputError
from fedrsic_data.report import figures, figures_clients, style, summary
from fedrsic_data.report.figures import for_card, of_partition

WHITE, BLACK = style.LIGHT["page"], style.DARK["page"]
# Machado, Oliveira and Fernandes 2009, severity 1.0; on linear RGB
VISION = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}


def linear(color: str) -> np.ndarray:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """Contrast ratio of WCAG 2."""
    low, high = sorted(float(linear(c) @ (0.2126, 0.7152, 0.0722)) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.95]]
    )
    xyz = to_xyz @ np.clip(rgb, 0, 1) / (0.95047, 1, 1.08883)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_colours_differ_for_every_kind_of_vision(theme: dict[str, str]) -> None:
    colors = [theme[f"series-{i}"] for i in range(style.SERIES)]
    for name, seen in VISION.items():
        for a, b in itertools.combinations(colors, 2):
            distance = np.linalg.norm(lab(seen @ linear(a)) - lab(seen @ linear(b)))
            assert distance > 14, f"{a} and {b} under {name}: {distance:.1f}"
    assert min(contrast(c, theme["page"]) for c in colors) >= 3
    assert min(contrast(theme[role], theme["page"]) for role in ("ink", "muted")) >= 4.5
    lights = [contrast(theme[f"heat-{i}"], theme["page"]) for i in range(7)]
    assert lights == sorted(lights)
    assert len(set(theme.values())) == len(theme)


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> fedrsic_data.dataset.reader.Dataset:
    out = tmp_path_factory.mktemp("built") / "fed"
    return fedrsic_data.open(sampled(out, "clients=12", "domain_mix=0.3", subset="fed-domains").path)


def test_the_card_has_its_pictures(domains: fedrsic_data.dataset.reader.Dataset) -> None:
    pictures = for_card(domains)
    assert [p.name for p in pictures] == [f"figures/fed-domains-{what}.png" for what in ("clients", "sizes", "domains")]
    for picture in pictures:
        with Image.open(io.BytesIO(picture.png)) as image:
            assert image.format == "PNG"
            assert image.width == 800
            assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 5, "nothing is drawn"
        assert not picture.png.count(b"tEXt"), "a PNG names its software, or a date"
        assert "12 clients" in picture.alt
    assert pictures == for_card(domains)


def test_numbers_behind_a_picture_are_the_counts(domains: fedrsic_data.dataset.reader.Dataset) -> None:
    subset = domains.subset("fed-domains")
    drawn = {d.name.removeprefix("fed-domains-"): d.numbers for d in of_partition(subset)}
    rows = {row[0]: row[1:] for row in drawn["sizes"].rows}
    for client in subset.clients:
        assert rows[client] == tuple(subset.client(client).rows(split) for split in subset.splits)
    labels = subset.read("train", ["label", "client_id"])
    mine = labels.filter(np.equal(labels["client_id"].to_numpy(zero_copy_only=False), subset.clients[0]))["label"]
    share = np.bincount(mine.to_numpy(), minlength=15) / len(mine)
    (row,) = (row for row in drawn["clients"].rows if row[0] == subset.clients[0])
    assert row[1:] == tuple(f"{s:.1%}" if s else "" for s in share)


def test_cells_lie_where_their_values_are() -> None:
    with style.look():
        axes = style.figure(2).subplots()
        figures_clients.cells(axes, np.array([[0.0, 0.005, 1.0], [0.3, 0.0, 0.01]]))
    found = {}
    for patch in axes.patches:
        for square in patch.get_path().vertices.reshape(-1, 5, 2):
            x, y = (square[0] + square[2]) / 2
            found[round(float(y)), round(float(x))] = patch.get_facecolor()
    from matplotlib.colors import to_rgba

    expected = {(0, 1): 0, (0, 2): 6, (1, 0): 5, (1, 2): 0}
    assert found == {at: to_rgba(style.heat(level)) for at, level in expected.items()}


def test_many_clients_share_columns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.multinomial(20, rng.dirichlet(np.full(9, 0.1), 51_414))
    labels[5] = 0
    many = synthetic(labels)
    of = summary.columns(many)
    assert len(of.labels) == summary.MOST
    assert sorted(np.concatenate(of.members).tolist()) == list(range(51_414))
    assert of.members[-1][-1] == 5, "a client without rows is not last"
    leading = labels[summary.ordered(many)].argmax(axis=1)[:-1]
    assert (np.diff(leading) >= 0).all()
    drawn = figures_clients.heat_map(many)
    assert len(drawn.numbers.rows) == summary.MOST
    assert len(style.svg(drawn)) < 60_000
    assert figures_clients.sizes(many).numbers.rows[-1][0] == "100%"


def test_an_svg_is_themed_named_and_escaped() -> None:
    hostile = "<script>alert('x')</script> & \u202eevil"
    made = synthetic(
        np.eye(4, dtype=np.int64) * 4, classes=(hostile, "$x^2$", "\N{GRINNING FACE}" * 300, "عربى"), name="fed-x"
    )
    drawing = figures_clients.heat_map(made)
    text = style.svg(drawing)
    assert text == style.svg(figures_clients.heat_map(made)), "not the same bytes again"
    assert "<script" not in text
    assert "\u202e" not in text
    assert "$x^2$" in text, "a dollar sign started a formula"
    assert "عربى" in text
    assert set(re.findall(r'\bid="([^"]*)"', text)) >= set(re.findall(r"url\(#([^)]*)\)", text))
    assert all(i.startswith("fed-x-clients-") for i in re.findall(r'\bid="([^"]*)"', text))
    used = set(re.findall(r"var\(--([\w-]+)", text))
    assert {"ink", "muted"} < used <= set(style.LIGHT)
    assert not re.search(r"[:\"]\s*#[0-9a-f]{6}", re.sub(r"var\([^)]*\)", "", text)), "a colour without a role"


def test_a_subset_without_a_client_has_pictures() -> None:
    for labels in (np.zeros((0, 4), np.int64), np.zeros((3, 4), np.int64)):
        made = synthetic(labels)
        for draw in (figures_clients.heat_map, figures_clients.sizes, figures_clients.domain_mix):
            assert style.png(draw(made)).startswith(b"\x89PNG")


def synthetic(labels: np.ndarray, classes: tuple[str, ...] | None = None, name: str = "made") -> summary.Summary:
    n, width = labels.shape
    rows = labels.sum(axis=1, keepdims=True)
    return summary.Summary(
        name=name,
        classes=classes or tuple(f"class-{i}" for i in range(width)),
        clients=tuple(f"client-{i:05d}" for i in range(n)),
        splits=("train", "test"),
        rows=np.hstack([rows, rows // 5]),
        labels=labels,
        domains=("a", "b"),
        domain_rows=np.hstack([rows, 0 * rows]),
        measured={},
        multi_label=False,
        sample=False,
    )


def test_matplotlib_is_imported_to_draw_only() -> None:
    import subprocess
    import sys

    code = "import sys, fedrsic_data.report.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False).returncode == 0


def test_inspect_writes_the_pictures(sample_build: Path, tmp_path: Path) -> None:
    from xml.etree import ElementTree

    facts = answer(fedkit("inspect", sample_build, "--plot", tmp_path / "plots", "--json"))
    written = sorted(p.name for p in (tmp_path / "plots").iterdir())
    assert written == sorted(
        f"fed-ucmerced-{what}.{kind}" for what in ("clients", "sizes", "skew") for kind in ("png", "svg")
    )
    assert sorted(Path(p).name for p in facts["pictures"]) == written
    for path in (tmp_path / "plots").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    (tmp_path / "file").write_text("")
    refused(fedkit("inspect", sample_build, "--plot", tmp_path / "file"), "cannot be written", codes=(1,))


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_picture_of_somebody_else_stays(sample_build: Path, tmp_path: Path, kind: str) -> None:
    dataset = fedrsic_data.open(sample_build)
    first = figures.write(dataset, [], tmp_path)
    assert figures.write(dataset, [], tmp_path) == first  # those of fedkit are replaced
    mine = tmp_path / f"fed-ucmerced-skew.{kind}"
    for data in (b"<svg>mine</svg>", b"\x89PNG\r\n\x1a\nmine"):
        mine.write_bytes(data)
        before = contents(tmp_path)
        with pytest.raises(OutputError, match=f"skew.{kind}: already exists and is not a picture of fedkit"):
            figures.write(dataset, [], tmp_path)
        assert contents(tmp_path) == before
    mine.unlink()
    mine.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=f"skew.{kind}: is a link"):
        figures.write(dataset, [], tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_no_backend_is_asked_for(sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    assert answer(fedkit("inspect", sample_build, "--plot", tmp_path / "pictures", "--json"))
    assert list((tmp_path / "pictures").glob("*.svg"))
