"""PACS: 9,991 images of 7 classes in four domains, from its Parquet mirror or from folders of domains.

The mirror has no split.
"""

from __future__ import annotations

from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.benchmark import Benchmark

SOURCE = Benchmark(
    kind="pacs",
    classes=("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
    published=Facts(
        title="PACS",
        homepage="https://sketchx.eecs.qmul.ac.uk/",
        licence="none stated",
        citation="Li, Yang, Song and Hospedales, Deeper, broader and artier domain generalization, ICCV 2017",
        layout="the Parquet files of flwrlabs/pacs, or <domain>/<class>/<image>",
        hub=HubMirror("flwrlabs/pacs"),
    ),
    aliases=("pacs",),
    images=9_991,
    domains=("art_painting", "cartoon", "photo", "sketch"),
)
