"""Methods: one file each, and the table of their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedrsic_data.registry import Registry

if TYPE_CHECKING:
    from fedtrain.methods.base import Method

METHODS: Registry[type[Method]] = Registry(
    "method",
    {
        "centralised": "fedtrain.methods.centralised:Centralised",
        "clip-full": "fedtrain.methods.clip_full:ClipFull",
        "fedavg": "fedtrain.methods.fedavg:FedAvg",
        "fedclip": "fedtrain.methods.fedclip:FedCLIP",
        "fedlgt": "fedtrain.methods.fedlgt:FedLGT",
        "fedotp": "fedtrain.methods.fedotp:FedOTP",
        "fedpgp": "fedtrain.methods.fedpgp:FedPGP",
        "fedprox": "fedtrain.methods.fedprox:FedProx",
        "fedrsclip": "fedtrain.methods.fedrsclip:FedRSCLIP",
        "fedtpg": "fedtrain.methods.fedtpg:FedTPG",
        "finetuned": "fedtrain.methods.finetuned:FineTuned",
        "kgcoop": "fedtrain.methods.kgcoop:KgCoOp",
        "linear-probe": "fedtrain.methods.linear_probe:LinearProbe",
        "local": "fedtrain.methods.local:Local",
        "pfedmoap": "fedtrain.methods.pfedmoap:PFedMoAP",
        "promptfl": "fedtrain.methods.promptfl:PromptFL",
        "promptfolio": "fedtrain.methods.promptfolio:PromptFolio",
        "zeroshot": "fedtrain.methods.zeroshot:ZeroShot",
    },
    group="fedkit.methods",
    needs=("train", "evaluate", "aggregate", "sent_to", "has_personal", "kinds", "Settings", "rounds"),
)
"""Methods by name."""
