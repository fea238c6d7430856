"""A method, a partitioner and a source for fedkit, as a package."""
