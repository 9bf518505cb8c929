import pytest

from baal_ray.scoring.batch_size import fastest, try_sizes


def took(seconds_at):
    """Return the size that `try_sizes` finds, and the sizes that it tried."""
    tried = []

    def seconds_of(size):
        tried.append(size)
        return seconds_at(size)

    return fastest(try_sizes(seconds_of)), tried


@pytest.mark.parametrize(
    ("seconds_at", "found", "most_tried"),
    [
        # 10 ms a mini-batch and 0.1 ms an image: faster to the end, and never by little.
        (lambda size: 0.010 + 1e-4 * size, 1024, 1024),
        # Each image takes as long: the smallest, and two more to be sure.
        (lambda size: 1e-3 * size, 16, 64),
        # Caches overflow beyond 64.
        (lambda size: 0.010 + (1e-4 if size <= 64 else 1e-3) * size, 64, 256),
        # One size is slow by chance.
        (lambda size: (0.010 + 1e-4 * size) * (2 if size == 64 else 1), 1024, 1024),
        # Memory for 100 images.
        (lambda size: 0.010 if size <= 100 else None, 64, 128),
        # A mini-batch of 64 takes seconds.
        (lambda size: 1 + size / 64, 64, 64),
        # Not even memory for the smallest.
        (lambda size: None, 16, 16),
    ],
)
def test_the_smallest_size_that_is_about_as_fast_as_any(seconds_at, found, most_tried):
    best, tried = took(seconds_at)
    assert best == found
    assert max(tried) == most_tried
    assert tried == sorted(set(tried))
