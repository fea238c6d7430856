"""The network as a Lightning module, on one client or on all: python lightning_module.py DATASET [CLIENT]."""

import sys

import pytorch_lightning as lightning
import torch
from network import batches, network
from torch.nn import functional

import fedrsic_data


class Classifier(lightning.LightningModule):
    """The network, its loss and its accuracy."""

    def __init__(self, classes):
        super().__init__()
        self.network = network(classes)

    def training_step(self, batch, number):
        return functional.cross_entropy(self.network(batch["x"]), batch["y"])

    def validation_step(self, batch, number):
        right = (self.network(batch["x"]).argmax(1) == batch["y"]).float().mean()
        self.log("accuracy", right, batch_size=len(batch["y"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    subset = fedrsic_data.open(sys.argv[1])[0]
    rows = subset[sys.argv[2]]["train"] if sys.argv[2:] else subset.pooled("train")
    trainer = lightning.Trainer(max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Classifier(len(subset.classes)), batches(rows, seed=0), batches(subset.pooled("test")))
    print(f"accuracy {trainer.callback_metrics['accuracy']:.4f}")
