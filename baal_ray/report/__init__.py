"""What people look at: a page for each round, and the words of `baal-ray status`."""
