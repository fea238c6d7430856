"""Shared code of methods that train networks."""
