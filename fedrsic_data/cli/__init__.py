"""The command line of the data layer."""
