"""One look for every picture: colours by role, fonts, and how a figure becomes SVG or PNG.

An SVG names its colours as CSS custom properties with the light theme's values to fall back on, so that one
drawing serves light and dark pages; a PNG has the light theme.
"""

from __future__ import annotations

import io
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from fedrsic_data.dataset.recipe import SAMPLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SERIES_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#8f24f9", "#4a1c3b", "#030381", "#630303", "#937efc")
_SERIES_DARK = ("#56b4e9", "#e69f00", "#009e73", "#9a3bfa", "#fcec9c", "#5c5cc1", "#8b6518", "#b5e3c4")
_HEAT_LIGHT = ("#dceaf6", "#b5d4eb", "#84bbdc", "#509ccc", "#2879b5", "#0e569b", "#08306c")
_HEAT_DARK = ("#17324b", "#1e4869", "#25628d", "#3080b4", "#4ca1d7", "#87c5ed", "#d0e9fc")

LIGHT: Mapping[str, str] = {
    "page": "#fefefe",
    "ink": "#1a1d21",
    "muted": "#575e66",
    "grid": "#dfe2e6",
    "chance": "#b9bec5",
    **{f"series-{i}": color for i, color in enumerate(_SERIES_LIGHT)},
    **{f"heat-{i}": color for i, color in enumerate(_HEAT_LIGHT)},
}
"""Role -> colour on light pages; every value is unique, so that an SVG's colours can be mapped back to roles."""

DARK: Mapping[str, str] = {
    "page": "#14171a",
    "ink": "#e8eaed",
    "muted": "#a6adb5",
    "grid": "#33383e",
    "chance": "#5d646c",
    **{f"series-{i}": color for i, color in enumerate(_SERIES_DARK)},
    **{f"heat-{i}": color for i, color in enumerate(_HEAT_DARK)},
}
"""The same roles on dark pages."""

SERIES = len(_SERIES_LIGHT)
"""Colours of lines and bars: the first three are Okabe and Ito's (2008); all differ for every kind of colour vision."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
"""A marker beside each colour, for print in grey and for whom colours are not enough."""

WIDTH = 5.0
"""Inches: 360 SVG units, so that text is of its natural size on a phone."""

SOFTWARE = "fedkit"
"""By what a picture says that it was drawn."""

_FONT = 11.0
_RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # shipped with matplotlib: the same layout on every machine
    "font.size": _FONT,
    "axes.titlesize": _FONT,
    "axes.labelsize": _FONT,
    "xtick.labelsize": _FONT,
    "ytick.labelsize": _FONT,
    "legend.fontsize": _FONT,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text stays text
}


@dataclass(frozen=True)
class Numbers:
    """The numbers behind a picture: a header, and rows of texts and numbers under it."""

    header: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


@dataclass(frozen=True)
class Drawing:
    """A picture before it has a format.

    Attributes:
        name: Letters, digits and dashes; unique in a page.
        title: What it shows, a few words.
        alt: What one sees in it, for who does not.
        figure: The matplotlib figure.
        numbers: What was drawn.
    """

    name: str
    title: str
    alt: str
    figure: Figure
    numbers: Numbers


def series(index: int) -> str:
    """The colour of a series by its stable place among its kind."""
    return LIGHT[f"series-{index % SERIES}"]


def heat(level: int) -> str:
    """The colour of a level of a heat map."""
    return LIGHT[f"heat-{level}"]


def figure(height: float, *, sample: bool = False) -> Figure:
    """An empty figure in this style; draw on it inside ``look``.

    Args:
        height: In inches.
        sample: Say below the picture that its data are procedural.
    """
    _matplotlib()
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH, height + 0.2 * sample), layout="constrained", facecolor="none")
    if sample:
        made.supxlabel(SAMPLE, x=0.99, ha="right", fontsize=_FONT, color=LIGHT["muted"])
    return made


def look(salt: str = "fedkit") -> Any:
    """The context in which figures are drawn and written.

    Args:
        salt: What the ids in an SVG are drawn from, instead of a random number.
    """
    wanted: Any = {**_RC, "svg.hashsalt": salt}
    return _matplotlib().rc_context(wanted)


def slug(name: str) -> str:
    """A name for ids and files: letters, digits, dots, dashes and underscores only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def svg(drawing: Drawing) -> str:
    """An ``<svg>`` element for a page: colours by role, ids of its own, equal bytes for equal drawings."""
    file = io.StringIO()
    with look(drawing.name), _no_glyph_warnings():
        drawing.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', _opening(drawing), text, count=1)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{slug(drawing.name)}-", text)
    text = re.sub(r"\n *", "\n", text)
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)  # XML has no such characters
    roles = {color: role for role, color in LIGHT.items()}
    return re.sub(r"(?<=: )#[0-9a-f]{6}", lambda m: _themed(m.group(), roles), text)


def standalone(drawing: Drawing) -> str:
    """An SVG file: the same with a size, both themes and a page of its own behind it."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opening = f'<svg data-generator="{SOFTWARE}" {names} width="720" '
    sheet = f"<style>{css()}svg {{ background: var(--page); }}</style>"
    return re.sub(r">", lambda _: f">\n{sheet}", svg(drawing).replace("<svg ", opening, 1), count=1)


def png(drawing: Drawing, dpi: int = 160, software: str | None = None) -> bytes:
    """A PNG file on the light page, equal bytes for equal drawings and versions of matplotlib.

    Args:
        drawing: What to write.
        dpi: Pixels an inch.
        software: What the file says that it was made by.
    """
    from PIL import Image, PngImagePlugin

    file = io.BytesIO()
    with look(drawing.name), _no_glyph_warnings():
        drawing.figure.savefig(file, format="png", dpi=dpi, facecolor=LIGHT["page"], metadata={"Software": None})
    with Image.open(file) as image:  # flat colours: a palette takes a third of the bytes
        small = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    said = PngImagePlugin.PngInfo()
    if software is not None:
        said.add_text("Software", software)
    small.save(packed, "PNG", optimize=True, pnginfo=said)
    return packed.getvalue()


def is_ours(data: bytes) -> bool:
    """Whether a file is a picture that says that fedkit drew it."""
    svg, png = f'<svg data-generator="{SOFTWARE}" '.encode(), f"tEXtSoftware\0{SOFTWARE}".encode()
    return data.startswith(svg) or (data.startswith(b"\x89PNG\r\n\x1a\n") and png in data)


def css() -> str:
    """The custom properties of both themes as a style sheet."""
    light, dark = (" ".join(f"--{role}: {color};" for role, color in theme.items()) for theme in (LIGHT, DARK))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def short(name: str, most: int = 22) -> str:
    """A name for an axis: one line without marks that steer its direction, cut in the middle where it is long."""
    shown = "".join(c for c in " ".join(name.split()) if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    if len(shown) <= most:
        return shown
    tail = (most - 1) // 3
    return f"{shown[: most - 1 - tail]}…{shown[-tail:]}"


def count(number: float) -> str:
    """A count for an axis: ``12``, ``1,200``, ``51k``, ``3M``."""
    for size, unit in ((1e6, "M"), (1e4, "k")):
        if number >= size:
            scaled = number / (1e6 if unit == "M" else 1e3)
            return f"{scaled:.3g}{unit}"
    return f"{number:,.0f}"


def _matplotlib() -> Any:
    """matplotlib, also where ``MPLBACKEND`` names what it does not know: nothing here needs a backend."""
    if "matplotlib" in sys.modules or (name := os.environ.pop("MPLBACKEND", None)) is None:
        import matplotlib as mpl
    else:
        import matplotlib as mpl

        os.environ["MPLBACKEND"] = name
        with suppress(ValueError):  # as its import does, which a name that it does not know would end
            mpl.rcParams["backend"] = name
    return mpl


def _opening(drawing: Drawing) -> Callable[[re.Match[str]], str]:
    # a function: in a replacement text, backslashes of a name would have a meaning
    return lambda m: f'<svg class="picture" {m.group(1)} role="img" aria-label="{escape(drawing.alt)}">'


def _themed(color: str, roles: Mapping[str, str]) -> str:
    return f"var(--{roles[color]}, {color})" if color in roles else color


@contextmanager
def _no_glyph_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # browsers have other fonts; a PNG shows a box
        yield
