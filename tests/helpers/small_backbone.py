"""A backbone for tests that compare runs with each other: a ResNet only makes them slower."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def small_backbone() -> nn.Sequential:
    """One strided convolution with batch norm and one to ResNet-18's 512 channels, under its names."""
    parts = nn.Conv2d(3, 8, 32, stride=32), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 512, 1)
    return nn.Sequential(OrderedDict(zip(("conv1", "bn1", "relu", "layer4"), parts, strict=True)))
