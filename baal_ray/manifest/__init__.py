"""The labelled manifest, and the label files that are read into it and written from it."""

from baal_ray.manifest.table import Manifest

__all__ = ["Manifest"]
