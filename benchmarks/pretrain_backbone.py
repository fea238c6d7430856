"""Makes the backbone that the experiments on the sample's photographs start from.

    python benchmarks/pretrain_backbone.py              # writes backbone.safetensors
    python benchmarks/pretrain_backbone.py --out FILE

It is a ResNet-18 that has learned to tell single-label scenes of the sample apart, of a seed that no photograph has.
The papers' networks start from ImageNet's weights instead. The draws are seeded; the weights depend on PyTorch's
release and on the machine by rounding.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torchvision.models import resnet18

from fedrsic_data import sample
from fedtrain.methods.networks.album import normalised

SCENES, SCENE_SEED, PASSES = 40, 7_000, 4  # scenes a class and sensor, their seed, and how often each is seen


def pretrain(out: Path) -> None:
    """Write the weights without the last layer."""
    names = list(sample.CLASSES)
    drawn = [(label, sensor, i) for label in range(len(names)) for sensor in sample.SENSORS for i in range(SCENES)]
    pixels = torch.from_numpy(
        np.stack(
            [
                sample.render(names[label], sensor, seed=SCENE_SEED, index=i, size=64).pixels
                for label, sensor, i in drawn
            ]
        )
    ).permute(0, 3, 1, 2)
    labels = torch.tensor([label for label, _, _ in drawn])
    draws = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = resnet18(num_classes=len(names)).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for once in range(PASSES):
        right = 0
        for part in torch.randperm(len(labels), generator=draws).split(32):
            logits = network(normalised(pixels[part]))
            loss = functional.cross_entropy(logits, labels[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            right += int((logits.argmax(1) == labels[part]).sum())
        print(f"pass {once + 1} of {PASSES}: {100 * right / len(labels):.1f}% right", file=sys.stderr, flush=True)
    save_file({name: value.detach() for name, value in network.state_dict().items() if not name.startswith("fc.")}, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("backbone.safetensors"))
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pretrain(given.out)


if __name__ == "__main__":
    main()
