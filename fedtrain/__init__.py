"""fedkit's trainers: federated methods over the datasets of ``fedrsic_data``. PyTorch lives only here.

>>> import fedrsic_data, fedtrain
>>> data = fedrsic_data.open("data/fed-rsic")  # doctest: +SKIP
>>> run = fedtrain.train("fedpgp", data["fed-ucmerced"], rounds=20)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedtrain.api.runs import compare, load, train

__version__: str
__all__ = ["compare", "load", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":  # read when it is asked for, which takes long
        from fedrsic_data import distribution

        return distribution.version()
    if name in __all__:
        return getattr(import_module("fedtrain.api.runs"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
