"""The labelled set → a checkpoint."""
