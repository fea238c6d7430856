"""Oxford Flowers-102: 8,189 photographs of 102 flowers, with the official split of 1,020, 1,020 and 6,149.

Prompt papers use CoOp's list of the same images, 4,093, 1,633 and 2,463, which no mirror has.
"""

from __future__ import annotations

from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.benchmark import Benchmark
from fedrsic_data.sources.own.coop import CoOpList

_CLASSES = """
    pink primrose; hard-leaved pocket orchid; canterbury bells; sweet pea; english marigold; tiger lily; moon
    orchid; bird of paradise; monkshood; globe thistle; snapdragon; colt's foot; king protea; spear thistle;
    yellow iris; globe-flower; purple coneflower; peruvian lily; balloon flower; giant white arum lily; fire lily;
    pincushion flower; fritillary; red ginger; grape hyacinth; corn poppy; prince of wales feathers; stemless
    gentian; artichoke; sweet william; carnation; garden phlox; love in the mist; mexican aster; alpine sea holly;
    ruby-lipped cattleya; cape flower; great masterwort; siam tulip; lenten rose; barbeton daisy; daffodil; sword
    lily; poinsettia; bolero deep blue; wallflower; marigold; buttercup; oxeye daisy; common dandelion; petunia;
    wild pansy; primula; sunflower; pelargonium; bishop of llandaff; gaura; geranium; orange dahlia; pink-yellow
    dahlia; cautleya spicata; japanese anemone; black-eyed susan; silverbush; californian poppy; osteospermum;
    spring crocus; bearded iris; windflower; tree poppy; gazania; azalea; water lily; rose; thorn apple; morning
    glory; passion flower; lotus; toad lily; anthurium; frangipani; clematis; hibiscus; columbine; desert-rose;
    tree mallow; magnolia; cyclamen; watercress; canna lily; hippeastrum; bee balm; ball moss; foxglove;
    bougainvillea; camellia; mallow; mexican petunia; bromelia; blanket flower; trumpet creeper; blackberry lily
"""

SOURCE = Benchmark(
    kind="flowers102",
    classes=tuple(" ".join(name.split()) for name in _CLASSES.split(";")),
    published=Facts(
        title="Oxford Flowers-102",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        licence="none stated",
        citation="Nilsback and Zisserman, Automated flower classification over a large number of classes, ICVGIP 2008",
        layout="the Parquet files of dpdl-benchmark/oxford_flowers102, with columns image and label",
        hub=HubMirror("dpdl-benchmark/oxford_flowers102", "544b55c9af69a05742ead7571cd7ae23cfcd758b"),
    ),
    aliases=("flowers102", "oxfordflowers", "oxfordflowers102"),
    official={"train": 1_020, "val": 1_020, "test": 6_149},
    coop=CoOpList("split_zhou_OxfordFlowers.json", "jpg", (4_093, 1_633, 2_463)),
)
