"""Training and comparing runs from Python: ``fedtrain.train(...)`` and its like."""
