"""NWPU-RESISC45: 45 classes of 700 scenes from Google Earth, 0.2 to 30 m, 256 x 256 JPEG.

The authors publish a RAR archive behind a browser page; the zip here is a copy of the same files pinned by
commit and checksum.
"""

from __future__ import annotations

from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.sources.base import ClassFolders, Facts
from fedrsic_data.sources.vocabulary import native

SOURCE = ClassFolders(
    name="resisc45",
    classes=native("resisc45"),
    per_class=700,
    aliases=("nwpuresisc45", "resisc45", "nwpu"),
    facts=Facts(
        title="NWPU-RESISC45",
        homepage="http://www.escience.cn/people/JunweiHan/NWPU-RESISC45.html",
        licence="none stated by the authors; imagery from Google Earth",
        citation="Cheng, Han and Lu, Remote sensing image scene classification: benchmark and state of the art, "
        "Proceedings of the IEEE 2017",
        layout="NWPU-RESISC45/<class>/<class>_NNN.jpg",
        downloads=(
            RemoteFile(
                url="https://huggingface.co/datasets/isaaccorley/resisc45/resolve/"
                "883edc0eee77b2c84225472f10f126e3ed83fa6e/NWPU-RESISC45.zip",
                filename="NWPU-RESISC45.zip",
                size=427_389_445,
                sha256="beeecd0b63656290ae6d65cf7763185b0c1c4c54a753ef8088d6fba3faaf1f53",
                md5="75206b2e16446591afa88e2628744886",
            ),
        ),
    ),
)
