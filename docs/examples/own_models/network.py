"""A network of one's own, its rows, and the two loops that the examples share."""

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

SEEN = [v2.RGB(), v2.ToImage(), v2.Resize((32, 32)), v2.ToDtype(torch.float32, scale=True)]
LOOK = v2.Compose([*SEEN, v2.Normalize([0.5] * 3, [0.25] * 3)])


def network(classes, seed=0):
    """A small convolutional network; put your own here."""
    torch.manual_seed(seed)
    first = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, classes))


def batches(rows, seed=None):
    """Batches of pixels and class numbers of a split, shuffled by the seed if there is one."""
    seen = rows.with_transform(lambda b: {"x": [LOOK(image) for image in b["image"]], "y": b["label"]})
    order = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(seen, batch_size=16, shuffle=seed is not None, generator=order)


def train(model, rows, seed, lr=0.1):
    """Train for one epoch."""
    steps = torch.optim.SGD(model.parameters(), lr=lr)
    for batch in batches(rows, seed):
        steps.zero_grad()
        nn.functional.cross_entropy(model(batch["x"]), batch["y"]).backward()
        steps.step()


@torch.no_grad()
def accuracy(model, rows):
    """The share of rows that the model classifies right."""
    right = sum((model(batch["x"]).argmax(1) == batch["y"]).sum().item() for batch in batches(rows))
    return right / len(rows)
