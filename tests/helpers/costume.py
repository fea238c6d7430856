"""A CPU in the costume of another device: tensors know where they would be, and mixing them fails as it would there.

Marks are on storages, so views, parameters and detached tensors have those of their memory. Marked storages are kept,
so that no address comes back. Work of other threads is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

WORN = torch.device("mps")
"""A device that code treats as any other; nothing is computed on it."""

_ANY = {"__set__", "copy_", "_has_compatible_shallow_copy_type"}  # between devices, as on real ones
_HOST = {"numpy", "__array__", "__reduce_ex__"}  # for the host's memory alone
_TEXTS = {"_parse_to", "device"}  # that name a device and touch none
_INDEX = {"__getitem__", "__setitem__"}  # places may come from the CPU


class WornGenerator(torch.Generator):
    """A generator on the CPU that says where it would be."""

    def __new__(cls, device: Any = "cpu") -> WornGenerator:
        made = super().__new__(cls, "cpu")
        made.worn = getattr(device, "type", device) == WORN.type
        return made


class Costume(TorchFunctionMode):
    """While it is on, ``WORN`` is a device of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._worn: dict[int, torch.UntypedStorage] = {}

    def wears(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor would be on the device."""
        return tensor.untyped_storage().data_ptr() in self._worn

    def _mark(self, found: Any) -> None:
        for tensor in _tensors(found):
            storage = tensor.untyped_storage()
            if storage.data_ptr():
                self._worn[storage.data_ptr()] = storage

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        given = [t for t in _tensors((args, kwargs)) if t.numel()]
        worn = [self.wears(t) for t in given]
        if name == "__get__" and "device" in repr(func.__self__) and given:
            return WORN if worn[0] else func(*args, **kwargs)
        if name in _TEXTS:
            return func(*args, **kwargs)
        where, args, kwargs = _moved(args, kwargs)
        if name == "to" and len(given) > 1:  # like another tensor
            where = WORN if worn[1] else torch.device("cpu")
        if name in ("to", "cpu") and (where is not None or name == "cpu"):
            found = func(*args, **kwargs).clone()
            if where == WORN:
                self._mark(found)
            return found
        draws = kwargs.get("generator")
        if isinstance(draws, torch.Generator):
            there = where == WORN or any(worn)
            assert getattr(draws, "worn", False) == there, f"{name}: the generator is on another device"
        if any(worn):
            assert name not in _HOST, f"{name}: the tensor is not in the host's memory"
            tensors = zip(given, worn, strict=True)
            others = [t for t, on in tensors if not on and t.dim()]
            free = name in _ANY or (name in _INDEX and worn[0])
            assert free or not others, f"{name}: tensors of two devices, {[tuple(t.shape) for t in given]} {worn}"
        found = func(*args, **kwargs)
        if where == WORN or (any(worn) and name not in _ANY):
            self._mark(found)
        return found


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict):
        yield from (t for value in found.values() for t in _tensors(value))
    elif isinstance(found, list | tuple):
        yield from (t for value in found for t in _tensors(value))


def _moved(args: Any, kwargs: Any) -> tuple[torch.device | None, Any, Any]:
    """The device that a call names, and its arguments with the CPU instead."""
    where: torch.device | None = None

    def swap(value: Any) -> Any:
        nonlocal where
        if isinstance(value, torch.device):
            where = value
            return torch.device("cpu")
        return value

    args = tuple(swap(value) for value in args)
    kwargs = {key: swap(torch.device(v) if key == "device" and isinstance(v, str) else v) for key, v in kwargs.items()}
    return where, args, kwargs
