"""Reports for people: a page for each round, and the text of `baal-ray status`."""
