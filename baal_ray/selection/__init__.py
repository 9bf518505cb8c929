"""Scores → the acquisition batch."""

from baal_ray.selection.ranking import top_k

__all__ = ["top_k"]
