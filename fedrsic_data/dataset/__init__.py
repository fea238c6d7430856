"""The contract: a built dataset as trainers, reports and other people read it."""
