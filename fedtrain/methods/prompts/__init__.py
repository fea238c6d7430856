"""Shared code of prompt methods."""
