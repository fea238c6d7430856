"""Caltech-101 as prompt papers use it: 8,242 photographs of 100 classes.

``BACKGROUND_Google`` and ``Faces_easy`` are left out. Classes have the names and the order of CoOp's lists (Zhou et al.
2022), whose splits no mirror has. The set has no official split.
"""

from __future__ import annotations

from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.benchmark import Benchmark
from fedrsic_data.sources.own.coop import CoOpList

_CLASSES = """
    face leopard motorbike accordion airplane anchor ant barrel bass beaver binocular bonsai brain brontosaurus
    buddha butterfly camera cannon car_side ceiling_fan cellphone chair chandelier cougar_body cougar_face crab
    crayfish crocodile crocodile_head cup dalmatian dollar_bill dolphin dragonfly electric_guitar elephant emu
    euphonium ewer ferry flamingo flamingo_head garfield gerenuk gramophone grand_piano hawksbill headphone hedgehog
    helicopter ibis inline_skate joshua_tree kangaroo ketch lamp laptop llama lobster lotus mandolin mayfly menorah
    metronome minaret nautilus octopus okapi pagoda panda pigeon pizza platypus pyramid revolver rhino rooster
    saxophone schooner scissors scorpion sea_horse snoopy soccer_ball stapler starfish stegosaurus stop_sign
    strawberry sunflower tick trilobite umbrella watch water_lilly wheelchair wild_cat windsor_chair wrench yin_yang
"""

SOURCE = Benchmark(
    kind="caltech101",
    classes=tuple(_CLASSES.split()),
    published=Facts(
        title="Caltech-101",
        homepage="https://data.caltech.edu/records/mzrjq-6wc02",
        licence="CC BY 4.0",
        citation="Fei-Fei, Fergus and Perona, Learning generative visual models from few training examples, CVPR 2004",
        layout="the Parquet files of flwrlabs/caltech101, or 101_ObjectCategories/<class>/<image>",
        hub=HubMirror("flwrlabs/caltech101", "3ec6286e202ebe3e1a263d74ba5d95209af41794"),
    ),
    aliases=("caltech101", "101objectcategories"),
    images=8_242,
    coop=CoOpList("split_zhou_Caltech101.json", "101_ObjectCategories", (4_128, 1_649, 2_465)),
    spelled={"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"},
    ignored=("BACKGROUND_Google", "Faces_easy"),
)
