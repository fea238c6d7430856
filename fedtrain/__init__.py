"""fedkit's trainers: federated methods over the datasets of ``fedrsic_data``. PyTorch lives only here."""
