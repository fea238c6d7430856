"""Sources: the datasets as their authors publish them, one file each."""

from __future__ import annotations

from fedrsic_data.sources import optimal31, resisc45, ucmerced
from fedrsic_data.sources.base import Facts, Source

__all__ = ["SOURCES", "Facts", "Source"]

SOURCES: dict[str, Source] = {source.name: source for source in (optimal31.SOURCE, resisc45.SOURCE, ucmerced.SOURCE)}
"""Every source by the name it has in recipes."""
