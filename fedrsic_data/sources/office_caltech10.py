"""Office-Caltech10: 2,533 images of the ten classes shared by Office-31 and Caltech-256, from folders of domains.

Its copies spell classes as one of the two sets does. There is no official split.
"""

from __future__ import annotations

from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.benchmark import Benchmark

SOURCE = Benchmark(
    kind="office-caltech10",
    classes=(
        *("backpack", "bike", "calculator", "headphones", "keyboard"),
        *("laptop", "monitor", "mouse", "mug", "projector"),
    ),
    published=Facts(
        title="Office-Caltech10",
        homepage="https://github.com/med-air/FedBN",
        licence="none stated",
        citation="Gong, Shi, Sha and Grauman, Geodesic flow kernel for unsupervised domain adaptation, CVPR 2012",
        layout="<domain>/<class>/<image>",
    ),
    aliases=("officecaltech10", "officecaltech"),
    images=2_533,
    domains=("amazon", "caltech", "dslr", "webcam"),
    spelled={
        "laptop_computer": "laptop",
        "desktop_monitor": "monitor",
        "touring-bike": "bike",
        "head-phones": "headphones",
        "computer-keyboard": "keyboard",
        "laptop-101": "laptop",
        "computer-monitor": "monitor",
        "computer-mouse": "mouse",
        "coffee-mug": "mug",
        "video-projector": "projector",
    },
    only=True,
)
