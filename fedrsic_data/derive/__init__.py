"""Datasets made from built datasets."""
