"""What methods that train networks share."""
