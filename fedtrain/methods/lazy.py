"""PyTorch, imported when it is first used.

The files of methods write ``from fedtrain.methods.lazy import torch`` and not ``import torch``. A command looks up the
settings of a method before it trains, and so it refuses a mistyped one without the seconds that PyTorch takes.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["functional", "nn", "torch"]

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.nn import functional
else:

    class _Later(ModuleType):
        """A module that is imported when an attribute of it is read."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module(self.__name__), name)

    torch, nn, functional = map(_Later, ("torch", "torch.nn", "torch.nn.functional"))
