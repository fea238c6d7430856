"""The commands of the data layer as functions: ``fedrsic_data.build(...)`` and its like."""
