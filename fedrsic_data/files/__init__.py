"""Files of this machine: written whole, owned, locked, cached."""
