"""Describable Textures: 5,640 photographs of 47 textures, with the first of the ten official splits.

The mirror has the split's training and validation images together, 3,760, and 1,880 for the test.
"""

from __future__ import annotations

from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.benchmark import Benchmark
from fedrsic_data.sources.own.coop import CoOpList

_CLASSES = """
    banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched crystalline dotted fibrous flecked
    freckled frilly gauzy grid grooved honeycombed interlaced knitted lacelike lined marbled matted meshed paisley
    perforated pitted pleated polka-dotted porous potholed scaly smeared spiralled sprinkled stained stratified
    striped studded swirly veined waffled woven wrinkled zigzagged
"""

SOURCE = Benchmark(
    kind="dtd",
    classes=tuple(_CLASSES.split()),
    published=Facts(
        title="Describable Textures Dataset",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        licence="for research purposes",
        citation="Cimpoi, Maji, Kokkinos, Mohamed and Vedaldi, Describing textures in the wild, CVPR 2014",
        layout="the Parquet files of tanganke/dtd, with columns image and label",
        hub=HubMirror("tanganke/dtd"),
    ),
    aliases=("dtd", "describabletextures"),
    official={"train": 3_760, "test": 1_880},
    coop=CoOpList("split_zhou_DescribableTextures.json", "images", (2_820, 1_128, 1_692)),
)
