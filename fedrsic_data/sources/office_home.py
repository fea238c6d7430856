"""Office-Home: 15,588 images of 65 classes in four domains, from its Parquet mirror or from folders of domains.

The set has no official split.
"""

from __future__ import annotations

from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.benchmark import Benchmark

_CLASSES = """
    Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards Computer Couch
    Curtains Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder Fork Glasses Hammer Helmet
    Kettle Keyboard Knives Lamp_Shade Laptop Marker Monitor Mop Mouse Mug Notebook Oven Pan Paper_Clip Pen Pencil
    Postit_Notes Printer Push_Pin Radio Refrigerator Ruler Scissors Screwdriver Shelf Sink Sneakers Soda Speaker
    Spoon TV Table Telephone ToothBrush Toys Trash_Can Webcam
"""

SOURCE = Benchmark(
    kind="office-home",
    classes=tuple(_CLASSES.split()),
    published=Facts(
        title="Office-Home",
        homepage="https://www.hemanthdv.org/officeHomeDataset.html",
        licence="fair use, see the homepage",
        citation="Venkateswara, Eusebio, Chakraborty and Panchanathan, Deep hashing network for unsupervised domain "
        "adaptation, CVPR 2017",
        layout="the Parquet files of flwrlabs/office-home, or <domain>/<class>/<image>",
        hub=HubMirror("flwrlabs/office-home", "d430d44779e929b335be368ab3456484e5de36bb"),
    ),
    aliases=("officehome", "officehomedataset"),
    images=15_588,
    domains=("Art", "Clipart", "Product", "Real World"),
)
