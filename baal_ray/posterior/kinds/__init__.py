"""Ways of drawing posterior samples, one per file."""
