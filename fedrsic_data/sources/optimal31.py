"""OPTIMAL-31: 31 classes of 60 scenes from Google Earth, 256 x 256 JPEG named ``forest(58).jpg``.

No archive of it can be fetched without a browser and none has a published checksum, so the Parquet mirror
on the Hub is used, at the commit recorded at first use.
"""

from __future__ import annotations

from fedrsic_data.sources.base import ClassFolders, Facts, HubMirror
from fedrsic_data.sources.vocabulary import native

SOURCE = ClassFolders(
    name="optimal31",
    classes=native("optimal31"),
    per_class=60,
    aliases=("optimal31",),
    facts=Facts(
        title="OPTIMAL-31",
        homepage="https://drive.google.com/file/d/1Fk9a0DW8UyyQsR8dP2Qdakmr69NVBhq9/view",
        licence="none stated by the authors; imagery from Google Earth",
        citation="Wang, Liu, Chanussot and Li, Scene classification with recurrent attention of VHR remote sensing "
        "images, IEEE TGRS 2019",
        layout="OPTIMAL-31/<class>/<class>(N).jpg",
        hub=HubMirror("jonathan-roberts1/Optimal-31"),
    ),
)
