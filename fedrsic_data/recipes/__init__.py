"""Recipes: the description of a dataset to build."""
