"""fedkit's data layer: federated image datasets as Parquet shards with a manifest.

>>> import fedrsic_data
>>> client = fedrsic_data.open("data/fed-rsic").subset("fed-ucmerced").client("client-0003")  # doctest: +SKIP
>>> client.read("train")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from fedrsic_data.dataset.reader import Dataset
    from fedrsic_data.partition.result import partition

__all__ = ["open", "partition"]


def __getattr__(name: str) -> object:
    if name == "partition":
        return import_module("fedrsic_data.partition")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open(path: str | PathLike[str], *, proved: bool = False) -> Dataset:  # noqa: A001 - fedrsic_data.open reads as it is meant
    """A built dataset.

    Args:
        path: Its ``manifest.json``, or the folder that holds it; or ``hf://USER/NAME[@REVISION]``: then one commit of
            it is read, and only the requested parts of its shards.
        proved: Compare every shard with its digest before anything of it is read; a shard on the Hub is fetched whole
            for that, and kept in the cache. Otherwise, only shards whose images are read all at once are compared.

    Raises:
        ManifestError: The manifest cannot be read or is malformed.
        HubError: The Hub cannot be reached, or has no such dataset.
    """
    from fedrsic_data.dataset.reader import Dataset

    return Dataset(path, proved=proved)
