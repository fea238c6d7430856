"""Writes the two pictures of README.md from a finished tour.

fedkit quickstart
python docs/make_images.py quickstart
"""

from __future__ import annotations

import sys
from pathlib import Path

import fedrsic_data
from fedrsic_data.report import style
from fedrsic_data.report.figures import of_partition
from fedrsic_data.report.page import Figure
from fedtrain.report import html

IMAGES = Path(__file__).parent / "images"


def main(tour: Path) -> None:
    subset = fedrsic_data.open(tour / "data" / "fed-ucmerced").subset("fed-ucmerced")
    runs = sorted((tour / "runs").glob("*-fed-ucmerced"))
    (section,) = html.page(runs).sections
    drawn = [block.drawing for block in section.blocks if isinstance(block, Figure)]
    (curve,) = (d for d in drawn if d.name == "fed-ucmerced-test-local-mean")
    IMAGES.mkdir(exist_ok=True)
    for name, drawing in (("clients.png", of_partition(subset)[0]), ("curves.png", curve)):
        (IMAGES / name).write_bytes(style.png(drawing, dpi=110))
        print(IMAGES / name, (IMAGES / name).stat().st_size, "bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
