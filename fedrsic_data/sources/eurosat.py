"""EuroSAT in RGB: 27,000 satellite images of 64 x 64 pixels in 10 classes, 16,200, 5,400 and 5,400.

The split is the mirror's, of Neumann et al. 2020; the set has no official one. Classes have the names of CoOp's lists.
"""

from __future__ import annotations

from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.benchmark import Benchmark
from fedrsic_data.sources.own.coop import CoOpList

_SPELLED = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}

SOURCE = Benchmark(
    kind="eurosat",
    classes=tuple(_SPELLED.values()),
    published=Facts(
        title="EuroSAT (RGB)",
        homepage="https://github.com/phelber/EuroSAT",
        licence="MIT",
        citation="Helber, Bischke, Dengel and Borth, EuroSAT, IEEE JSTARS 2019",
        layout="the Parquet files of timm/eurosat-rgb, with columns image and label",
        hub=HubMirror("timm/eurosat-rgb", "45672726cb506066e5b3f51425158040acc1a985"),
    ),
    aliases=("eurosat", "eurosatrgb"),
    official={"train": 16_200, "val": 5_400, "test": 5_400},
    coop=CoOpList("split_zhou_EuroSAT.json", "2750", (13_500, 5_400, 8_100)),
    spelled=_SPELLED,
)
