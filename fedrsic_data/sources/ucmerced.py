"""UC Merced Land Use: 21 classes of 100 aerial scenes of the USA at 0.3 m, as RGB TIFF files.

44 of the 2,100 images are not 256 x 256 pixels (sides of 242 to 257); they are kept as they are.
"""

from __future__ import annotations

from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.sources.base import ClassFolders, Facts
from fedrsic_data.sources.vocabulary import native

_SHA256 = "06c539ef28703a58fb07bd2837991ac7c48b813b00bb12ac197efd813a18daeb"
_HUB = "https://huggingface.co/datasets/torchgeo/ucmerced/resolve/7c5ef3454d9b1cccfa7ccde0c01fc8f00a45909a"

SOURCE = ClassFolders(
    name="ucmerced",
    classes=native("ucmerced"),
    per_class=100,
    aliases=("ucmercedlanduse", "ucmerced", "ucm"),
    facts=Facts(
        title="UC Merced Land Use",
        homepage="http://weegee.vision.ucmerced.edu/datasets/landuse.html",
        licence="public-domain imagery of the USGS National Map",
        citation="Yang and Newsam, Bag-of-visual-words and spatial extensions for land-use classification, "
        "ACM SIGSPATIAL GIS 2010",
        layout="UCMerced_LandUse/Images/<class>/<class>NN.tif",
        redistributable=True,
        downloads=tuple(
            RemoteFile(
                url=f"{base}/UCMerced_LandUse.zip", filename="UCMerced_LandUse.zip", size=332_468_434, sha256=_SHA256
            )
            for base in (_HUB, "http://weegee.vision.ucmerced.edu/datasets")
        ),
    ),
)
