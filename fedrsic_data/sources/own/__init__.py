"""Shared code of sources for people's own images."""
