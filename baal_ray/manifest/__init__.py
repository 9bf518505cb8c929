"""The labelled manifest, and the files of labels that go into it and out of it."""

from baal_ray.manifest.table import Manifest

__all__ = ["Manifest"]
