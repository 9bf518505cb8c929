"""Commands that operators run around rounds. No round depends on them."""
