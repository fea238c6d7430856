"""Oxford-IIIT Pet: 7,349 photographs of 37 breeds, with the official split of 3,680 and 3,669.

The test images are those of CoOp's list by their number; its training images are 2,944 of the 3,680.
"""

from __future__ import annotations

from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.benchmark import Benchmark
from fedrsic_data.sources.own.coop import CoOpList

_CLASSES = """
    abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle bengal birman bombay boxer
    british_shorthair chihuahua egyptian_mau english_cocker_spaniel english_setter german_shorthaired great_pyrenees
    havanese japanese_chin keeshond leonberger maine_coon miniature_pinscher newfoundland persian pomeranian pug
    ragdoll russian_blue saint_bernard samoyed scottish_terrier shiba_inu siamese sphynx staffordshire_bull_terrier
    wheaten_terrier yorkshire_terrier
"""

SOURCE = Benchmark(
    kind="oxford-pets",
    classes=tuple(_CLASSES.split()),
    published=Facts(
        title="Oxford-IIIT Pet",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        licence="CC BY-SA 4.0",
        citation="Parkhi, Vedaldi, Zisserman and Jawahar, Cats and dogs, CVPR 2012",
        layout="the Parquet files of timm/oxford-iiit-pet, with columns image and label",
        hub=HubMirror("timm/oxford-iiit-pet", "10b688881011725fa2fa3d856a47536c9a7e6968"),
    ),
    aliases=("oxfordpets", "oxfordiiitpet"),
    official={"train": 3_680, "test": 3_669},
    coop=CoOpList("split_zhou_OxfordPets.json", "images", (2_944, 736, 3_669)),
)
