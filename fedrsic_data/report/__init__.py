"""Figures and pages about datasets."""
