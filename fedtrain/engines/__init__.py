"""Engines: who trains when."""
