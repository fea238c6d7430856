"""What sources of people's own images share."""
