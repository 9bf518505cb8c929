"""Catch a model's dropouts, and decide which units each posterior sample keeps."""
