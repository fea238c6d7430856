"""Models: a frozen CLIP with its prompt encoder, and the tiny CLIP that comes with the package."""
