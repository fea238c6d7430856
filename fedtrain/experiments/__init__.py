"""Experiments: datasets x methods x seeds from one file, and the tables made of them."""
