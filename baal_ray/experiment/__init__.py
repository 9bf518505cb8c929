"""Acquisition rules against random picks, on images whose labels are known."""
