"""Engines: where clients train, and the loop of rounds that all of them share."""

from __future__ import annotations

from importlib.util import find_spec

from fedrsic_data import distribution
from fedrsic_data.errors import UsageError
from fedrsic_data.registry import Registry
from fedtrain.engines.base import Engine

ENGINES: Registry[type[Engine]] = Registry(
    "engine",
    {"local": "fedtrain.engines.local:InProcess", "flower": "fedtrain.engines.flower.simulation:Simulation"},
)
"""Every engine by its name on the command line: in this process, or in Flower's simulation."""


def chosen(name: str) -> Engine:
    """An engine by its name.

    Raises:
        UsageError: No engine has this name, or Flower is not installed.
    """
    if name == "flower" and (find_spec("flwr") is None or find_spec("ray") is None):
        raise UsageError(f"--engine flower: Flower is not installed; {distribution.install('flower')}")
    return ENGINES.named(name, "--engine")()
