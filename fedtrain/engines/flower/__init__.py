"""Flower: the same methods, rounds and metrics, with every client at its own site."""
