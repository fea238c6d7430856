"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 images of 32 x 32 pixels each, from their Parquet mirrors on the Hub.

The mirrors call the column of images ``img``. That of CIFAR-100 spells the class crab ``cra``; its 20
superclasses are in another column, which is not read, since they follow from the classes.
"""

from __future__ import annotations

from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.benchmark import Benchmark

_CITATION = "Krizhevsky, Learning multiple layers of features from tiny images, technical report 2009"
_HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_SPLITS = {"train": 50_000, "test": 10_000}
_OF_10 = """
    airplane automobile bird cat deer dog frog horse ship truck
"""
_OF_100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
    maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
    trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_SUPERCLASSES = """
    aquatic_mammals: beaver dolphin otter seal whale
    fish: aquarium_fish flatfish ray shark trout
    flowers: orchid poppy rose sunflower tulip
    food_containers: bottle bowl can cup plate
    fruit_and_vegetables: apple mushroom orange pear sweet_pepper
    household_electrical_devices: clock keyboard lamp telephone television
    household_furniture: bed chair couch table wardrobe
    insects: bee beetle butterfly caterpillar cockroach
    large_carnivores: bear leopard lion tiger wolf
    large_man-made_outdoor_things: bridge castle house road skyscraper
    large_natural_outdoor_scenes: cloud forest mountain plain sea
    large_omnivores_and_herbivores: camel cattle chimpanzee elephant kangaroo
    medium_mammals: fox porcupine possum raccoon skunk
    non-insect_invertebrates: crab lobster snail spider worm
    people: baby boy girl man woman
    reptiles: crocodile dinosaur lizard snake turtle
    small_mammals: hamster mouse rabbit shrew squirrel
    trees: maple_tree oak_tree palm_tree pine_tree willow_tree
    vehicles_1: bicycle bus motorcycle pickup_truck train
    vehicles_2: lawn_mower rocket streetcar tank tractor
"""

CIFAR10 = Benchmark(
    kind="cifar10",
    classes=tuple(_OF_10.split()),
    published=Facts(
        title="CIFAR-10",
        homepage=_HOMEPAGE,
        licence="none stated",
        citation=_CITATION,
        layout="the Parquet files of uoft-cs/cifar10, with columns img and label",
        hub=HubMirror("uoft-cs/cifar10"),
    ),
    aliases=("cifar10",),
    official=_SPLITS,
    image="img",
)

CIFAR100 = Benchmark(
    kind="cifar100",
    classes=tuple(_OF_100.split()),
    published=Facts(
        title="CIFAR-100",
        homepage=_HOMEPAGE,
        licence="none stated",
        citation=_CITATION,
        layout="the Parquet files of uoft-cs/cifar100, with columns img and fine_label",
        hub=HubMirror("uoft-cs/cifar100"),
    ),
    aliases=("cifar100",),
    official=_SPLITS,
    image="img",
    superclasses={
        name: tuple(classes.split())
        for name, _, classes in (line.strip().partition(":") for line in _SUPERCLASSES.strip().splitlines())
    },
    label="fine_label",
    spelled={"cra": "crab"},
)
