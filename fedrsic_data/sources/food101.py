"""Food-101: 101,000 photographs of 101 dishes, with the official split of 75,750 and 25,250.

The mirror calls the test images ``validation``. CoOp's list splits the same images otherwise.
"""

from __future__ import annotations

from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.benchmark import Benchmark
from fedrsic_data.sources.own.coop import CoOpList

_CLASSES = """
    apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets bibimbap bread_pudding
    breakfast_burrito bruschetta caesar_salad cannoli caprese_salad carrot_cake ceviche cheesecake cheese_plate
    chicken_curry chicken_quesadilla chicken_wings chocolate_cake chocolate_mousse churros clam_chowder club_sandwich
    crab_cakes creme_brulee croque_madame cup_cakes deviled_eggs donuts dumplings edamame eggs_benedict escargots
    falafel filet_mignon fish_and_chips foie_gras french_fries french_onion_soup french_toast fried_calamari
    fried_rice frozen_yogurt garlic_bread gnocchi greek_salad grilled_cheese_sandwich grilled_salmon guacamole gyoza
    hamburger hot_and_sour_soup hot_dog huevos_rancheros hummus ice_cream lasagna lobster_bisque
    lobster_roll_sandwich macaroni_and_cheese macarons miso_soup mussels nachos omelette onion_rings oysters pad_thai
    paella pancakes panna_cotta peking_duck pho pizza pork_chop poutine prime_rib pulled_pork_sandwich ramen ravioli
    red_velvet_cake risotto samosa sashimi scallops seaweed_salad shrimp_and_grits spaghetti_bolognese
    spaghetti_carbonara spring_rolls steak strawberry_shortcake sushi tacos takoyaki tiramisu tuna_tartare waffles
"""

SOURCE = Benchmark(
    kind="food101",
    classes=tuple(_CLASSES.split()),
    published=Facts(
        title="Food-101",
        homepage="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        licence="owners of the photographs; scientific fair use",
        citation="Bossard, Guillaumin and Van Gool, Food-101, ECCV 2014",
        layout="the Parquet files of ethz/food101, with columns image and label",
        hub=HubMirror("ethz/food101"),
    ),
    aliases=("food101",),
    official={"train": 75_750, "test": 25_250},
    coop=CoOpList("split_zhou_Food101.json", "images", (50_500, 20_200, 30_300)),
    split_words={"val": "test"},
)
