"""Flower: the same methods, rounds and figures, with every client at a site of its own."""
