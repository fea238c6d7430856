"""Engines: where clients train, and the loop of rounds that all of them share."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from fedrsic_data import distribution
from fedrsic_data.errors import UsageError
from fedtrain.engines.base import Engine

ENGINES = {"local": "fedtrain.engines.local:InProcess", "flower": "fedtrain.engines.flower.simulation:Simulation"}
"""Names for ``--engine`` -> classes, imported on use."""


def chosen(name: str) -> Engine:
    """An engine by name: ``local``, in this process, or ``flower``, in Flower's simulation.

    Raises:
        UsageError: No engine has this name, or Flower is not installed.
    """
    if name not in ENGINES:
        raise UsageError(f"--engine {name}: should be {' or '.join(ENGINES)}")
    if name == "flower" and (find_spec("flwr") is None or find_spec("ray") is None):
        raise UsageError(f"--engine flower: Flower is not installed; {distribution.install('flower')}")
    module, _, kind = ENGINES[name].partition(":")
    engine: Engine = getattr(import_module(module), kind)()
    return engine
