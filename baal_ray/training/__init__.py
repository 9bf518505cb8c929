"""Fits of the model, from the labelled set to a checkpoint."""
