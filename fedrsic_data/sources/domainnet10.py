"""DomainNet-10: ten classes of DomainNet in its six domains, from folders of domains.

FL papers take these ten, and their split from pickled lists that are not read here. The files are called
``clipart_045_000001.jpg``: an image in the folder of another domain or class is refused.
"""

from __future__ import annotations

from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.benchmark import Benchmark

SOURCE = Benchmark(
    kind="domainnet10",
    classes=(
        *("bird", "feather", "headphones", "ice_cream", "teapot"),
        *("tiger", "whale", "windmill", "wine_glass", "zebra"),
    ),
    published=Facts(
        title="DomainNet, ten classes",
        homepage="https://ai.bu.edu/M3SDA/",
        licence="fair use, see the homepage",
        citation="Peng, Bai, Xia, Huang, Saenko and Wang, Moment matching, ICCV 2019",
        layout="<domain>/<class>/<domain>_<class number>_<number>.jpg",
    ),
    aliases=("domainnet", "domainnet10"),
    domains=("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
    only=True,
    numbered=True,
)
