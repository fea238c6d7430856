"""Methods: one file each, and the table of their names."""

from typing import Any

from fedtrain.methods.fedavg import FedAvg
from fedtrain.methods.fedlgt import FedLGT
from fedtrain.methods.fedpgp import FedPGP
from fedtrain.methods.fedprox import FedProx
from fedtrain.methods.fedrsclip import FedRSCLIP
from fedtrain.methods.kgcoop import KgCoOp
from fedtrain.methods.local import Local
from fedtrain.methods.promptfl import PromptFL
from fedtrain.methods.zeroshot import ZeroShot

METHODS: dict[str, type[Any]] = {
    "fedavg": FedAvg,
    "fedlgt": FedLGT,
    "fedpgp": FedPGP,
    "fedprox": FedProx,
    "fedrsclip": FedRSCLIP,
    "kgcoop": KgCoOp,
    "local": Local,
    "promptfl": PromptFL,
    "zeroshot": ZeroShot,
}
"""Methods by name. Each has its ``Settings``, and ``rounds``, as many as its paper trains (ours where it says none)."""
