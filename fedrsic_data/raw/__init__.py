"""Bytes as others publish them: images, archives, downloads."""
