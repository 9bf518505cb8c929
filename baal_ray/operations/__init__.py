"""What operators run around rounds; no round depends on it."""
