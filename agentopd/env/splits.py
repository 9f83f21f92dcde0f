"""Which seeds belong to which split, for the streams of tasks and for environments whose tasks are few."""

from collections.abc import Mapping

SPLITS: Mapping[str, int] = {"train": 0, "validation": 1, "evaluation": 2, "stages": 3}
"""Each split owns one range of environment seeds, so that no start is in two of them. What is played before training has its
own too: the first training tasks are no tasks that a cold start has seen."""

SEEDS_PER_SPLIT = 2**29


def split_of(seed: int) -> str:
    """The split whose range ``seed`` is in; ``train`` for a seed beyond all ranges, which no stream draws."""
    place = seed // SEEDS_PER_SPLIT
    return next((split for split, own in SPLITS.items() if own == place), "train")
