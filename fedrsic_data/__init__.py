"""fedkit's data layer: federated image datasets as Parquet shards with a manifest.

>>> import fedrsic_data
>>> split = fedrsic_data.partition([0, 0, 1, 1, 2, 2], "dirichlet", clients=2, alpha=0.5)
>>> data = fedrsic_data.build("fed-rsic", sample=True, alpha=0.1)  # doctest: +SKIP
>>> data["fed-ucmerced"]["client-0003"].read("train")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from fedrsic_data.api.datasets import build, publish, resplit, split_sites, verify
    from fedrsic_data.dataset.reader import Dataset
    from fedrsic_data.partition.result import partition

__version__: str
__all__ = ["build", "open", "partition", "publish", "resplit", "split_sites", "verify"]

_PACKAGES = ("build", "partition", "publish")
"""Functions that have the name of a package: the package can be called."""


class CallablePackage(ModuleType):
    """A package that can be called as the function of its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function; see ``fedrsic_data.api.datasets`` and ``fedrsic_data.partition.result``."""
        return _function(self.__name__.rpartition(".")[2])(*args, **kwargs)


def _function(name: str) -> Any:
    module = "fedrsic_data.partition.result" if name == "partition" else "fedrsic_data.api.datasets"
    return getattr(import_module(module), name)


def __getattr__(name: str) -> Any:
    if name == "__version__":  # read when it is asked for, which takes long
        from fedrsic_data import distribution

        return distribution.version()
    if name in _PACKAGES:
        return import_module(f"fedrsic_data.{name}")
    if name in __all__:
        return _function(name)
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
