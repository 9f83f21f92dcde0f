"""Whole numbers in given proportions: how the tasks of a step are shared among sources."""

import math
from collections.abc import Mapping
from fractions import Fraction


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers in proportion to ``weights`` that sum to ``total``, by largest remainders.

    Each is its exact quota rounded down, or one more: what rounding leaves over goes to the largest remainders, and among equal
    ones to the first.

    Args:
        total: What is shared, at least 0.
        weights: By name, none below 0, and one above.
    """
    exact = {name: Fraction(weight) for name, weight in weights.items()}
    whole = sum(exact.values())
    quotas = {name: total * weight / whole for name, weight in exact.items()}
    counts = {name: math.floor(quota) for name, quota in quotas.items()}
    left = total - sum(counts.values())
    for name in sorted(quotas, key=lambda name: counts[name] - quotas[name])[:left]:
        counts[name] += 1
    return counts
