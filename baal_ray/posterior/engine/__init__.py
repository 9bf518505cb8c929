"""Draw many posterior samples fast: trace the model, cut it, run the trunk once."""
