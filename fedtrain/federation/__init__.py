"""Federations of real sites, started over Flower."""
