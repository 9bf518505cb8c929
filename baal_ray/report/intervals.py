"""95 % confidence intervals of a proportion, and of the difference of two."""

from math import hypot, sqrt
from statistics import NormalDist

Interval = tuple[float, float]

_Z = NormalDist().inv_cdf(0.975)


def wilson(count: float, of: float) -> Interval:
    """The score interval of a proportion: it stays between 0 and 1, and is right for few, too.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.

    Args:
        count: how many have the property.
        of: among how many, more than 0.
    """
    share, z_squared = count / of, _Z**2
    middle = (share + z_squared / (2 * of)) / (1 + z_squared / of)
    spread = sqrt(share * (1 - share) / of + z_squared / (4 * of**2))
    half = _Z * spread / (1 + z_squared / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe(count: float, of: float, other_count: float, other_of: float) -> Interval:
    """The interval of a proportion less another, of independent samples, from Wilson's of each.

    Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I,
    method 10.

    Args:
        count: how many have the property.
        of: among how many, more than 0.
        other_count: the same of the proportion that is taken away.
        other_of: the same.
    """
    share, other = count / of, other_count / other_of
    low, high = wilson(count, of)
    other_low, other_high = wilson(other_count, other_of)
    return (
        share - other - hypot(share - low, other_high - other),
        share - other + hypot(high - share, other - other_low),
    )
