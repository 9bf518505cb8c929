"""What people look at rather than read: one self-contained page a round, and one an experiment."""
