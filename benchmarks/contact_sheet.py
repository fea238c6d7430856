"""Write a contact sheet of the sample scenes: rows are classes, columns are sensors' images.

Run: python benchmarks/contact_sheet.py --out sheet.png
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedrsic_data.sample import CLASSES, SENSORS, encode, render

_MARGIN, _HEAD, _GAP = 150, 18, 2


def sheet(classes: list[str], columns: int, size: int, zoom: int, seed: int) -> Image.Image:
    """Draw the sheet from the encoded files, so that it shows what a reader would decode."""
    step = size * zoom + _GAP
    block = columns * step + 4 * _GAP
    image = Image.new("RGB", (_MARGIN + block * len(SENSORS), _HEAD + step * len(classes)), "white")
    pen = ImageDraw.Draw(image)
    for block_index, sensor in enumerate(SENSORS):
        left = _MARGIN + block_index * block
        pen.text((left, 3), sensor, fill="black")
        for row, class_name in enumerate(classes):
            top = _HEAD + row * step
            pen.text((4, top + step // 2 - 6), class_name, fill="black")
            for column in range(columns):
                scene = render(class_name, sensor, seed=seed, index=column, size=size)
                tile = Image.open(io.BytesIO(encode(scene))).resize((size * zoom,) * 2, Image.Resampling.NEAREST)
                image.paste(tile, (left + column * step, top))
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    parser.add_argument("--classes", nargs="*", default=list(CLASSES), help="default: all")
    parser.add_argument("--columns", type=int, default=4, help="images per sensor")
    parser.add_argument("--size", type=int, default=64, help="pixels of a rendered image")
    parser.add_argument("--zoom", type=int, default=1, help="enlargement on the sheet")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sheet(given.classes, given.columns, given.size, given.zoom, given.seed).save(given.out)


if __name__ == "__main__":
    main()
