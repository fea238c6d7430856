"""Datasets published to the Hugging Face Hub, with their images or without."""
