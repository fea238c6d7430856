"""Write a contact sheet of the sample: scenes by class and sensor, or photographs with their labels.

Run: python benchmarks/contact_sheet.py --out sheet.png
     python benchmarks/contact_sheet.py --photos flair --size 128 --columns 10 --out photos.png
"""

from __future__ import annotations

import argparse
import io
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedrsic_data.sample import CLASSES, COLLECTIONS, FINE, SENSORS, Photograph, encode, photograph, photographs, render

_MARGIN, _HEAD, _GAP = 150, 18, 2
_LINES, _LINE = 4, 11  # of text under a photograph; pixels


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
                image.paste(_tile(encode(scene), size * zoom), (left + column * step, top))
    return image


def photo_sheet(collection: str, columns: int, size: int, zoom: int, seed: int) -> Image.Image:
    """Two photographs for each fine label, its name in red and the other labels under it."""
    photos = [Photograph.from_key(key) for key in photographs(1500, seed, collection)["key"].to_pylist()[::5]]
    side = size * zoom
    wide, high = side + 2 * _GAP, side + _LINES * _LINE + 2 * _GAP
    shown = [(label, photo) for label in range(len(FINE)) for photo in [p for p in photos if label in p.fine][:2]]
    image = Image.new("RGB", (columns * wide, -(-len(shown) // columns) * high), "white")
    pen = ImageDraw.Draw(image)
    for place, (label, photo) in enumerate(shown):
        left, top = place % columns * wide, place // columns * high
        image.paste(_tile(photograph(photo, seed=seed, collection=collection, size=size), side), (left, top))
        pen.text((left, top + side), FINE[label], fill="red")
        others = " ".join(FINE[other] for other in photo.fine if other != label)
        for line, text in enumerate(textwrap.wrap(others, max(side // 6, 1))[: _LINES - 1], 1):
            pen.text((left, top + side + line * _LINE), text, fill="black")
    return image


def _tile(data: bytes, side: int) -> Image.Image:
    return Image.open(io.BytesIO(data)).resize((side, side), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    parser.add_argument("--classes", nargs="*", default=list(CLASSES), help="default: all")
    parser.add_argument("--photos", choices=list(COLLECTIONS), help="photographs of this collection instead of scenes")
    parser.add_argument("--columns", type=int, default=4, help="images per sensor, or photographs in a row")
    parser.add_argument("--size", type=int, default=64, help="pixels of a rendered image")
    parser.add_argument("--zoom", type=int, default=1, help="enlargement on the sheet")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.photos:
        made = photo_sheet(given.photos, given.columns, given.size, given.zoom, given.seed)
    else:
        made = sheet(given.classes, given.columns, given.size, given.zoom, given.seed)
    made.save(given.out)


if __name__ == "__main__":
    main()
