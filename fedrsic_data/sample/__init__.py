"""Procedural stand-ins for the real sources, no download: scenes under their class names, and users' photographs."""

from fedrsic_data.sample.labels import COARSE, COARSE_OF, FINE
from fedrsic_data.sample.people import COLLECTIONS
from fedrsic_data.sample.photos import PHOTOGRAPHS, Photograph, photo_caption, photograph, photographs
from fedrsic_data.sample.scenes import CLASSES, caption, render
from fedrsic_data.sample.sensors import CAMERAS, SENSORS, Scene, encode, suffix

__all__ = [
    "CAMERAS",
    "CLASSES",
    "COARSE",
    "COARSE_OF",
    "COLLECTIONS",
    "FINE",
    "PHOTOGRAPHS",
    "SENSORS",
    "Photograph",
    "Scene",
    "caption",
    "encode",
    "photo_caption",
    "photograph",
    "photographs",
    "render",
    "suffix",
]
