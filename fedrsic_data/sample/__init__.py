"""Procedural stand-ins for the real sources: the same class names, three sensors, no download."""

from fedrsic_data.sample.captions import caption
from fedrsic_data.sample.scenes import CLASSES, render
from fedrsic_data.sample.sensors import SENSORS, Scene, encode, suffix

__all__ = ["CLASSES", "SENSORS", "Scene", "caption", "encode", "render", "suffix"]
