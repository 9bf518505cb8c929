"""Experiments that compare acquisition rules with random picks, on images with known labels."""
