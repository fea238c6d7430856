"""What prompt methods share."""
