"""95 % confidence intervals of a proportion, and of the difference of two proportions."""

from math import hypot, sqrt
from statistics import NormalDist

Interval = tuple[float, float]

_Z = NormalDist().inv_cdf(0.975)


def wilson(count: float, of: float) -> Interval:
    """Return the score interval of a proportion, which stays in 0…1 and suits small samples, too.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.

    Args:
        count: Number of items with the property.
        of: Number of all items, more than 0.
    """
    share, z_squared = count / of, _Z**2
    middle = (share + z_squared / (2 * of)) / (1 + z_squared / of)
    spread = sqrt(share * (1 - share) / of + z_squared / (4 * of**2))
    half = _Z * spread / (1 + z_squared / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe(count: float, of: float, other_count: float, other_of: float) -> Interval:
    """Return the interval of the difference between the proportions of two independent samples.

    It combines Wilson's intervals of the two proportions.

    Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I,
    method 10.

    Args:
        count: Number of items with the property.
        of: Number of all items, more than 0.
        other_count: Number of items with the property in the sample that is subtracted.
        other_of: Number of all items in that sample, more than 0.
    """
    share, other = count / of, other_count / other_of
    low, high = wilson(count, of)
    other_low, other_high = wilson(other_count, other_of)
    return (
        share - other - hypot(share - low, other_high - other),
        share - other + hypot(high - share, other - other_low),
    )
