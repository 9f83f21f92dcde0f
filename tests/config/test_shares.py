"""How the tasks of a step are shared among sources."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.config import load_config
from agentopd.config.shares import apportion
from agentopd.errors import ConfigError
from agentopd.settings.clock import Clock


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (5, [1.0, 1.0], [3, 2]),  # 2.5 each: the first of equal remainders
        (7, [1.0, 1.0], [4, 3]),
        (5, [4.0, 1.0], [4, 1]),
        (10, [0.1, 0.2, 0.7], [1, 2, 7]),
        (16, [5.0, 3.0, 2.0], [8, 5, 3]),  # 8, 4.8, 3.2
        (10, [3.3, 3.3, 3.4], [3, 3, 4]),
        (2, [1.0, 1.0, 1.0], [1, 1, 0]),
        (3, [2.5], [3]),
        (4, [1e308, 1e308], [2, 2]),
        (4, [5e-324, 5e-324], [2, 2]),
    ],
)
def test_what_is_left_over_goes_to_the_largest_remainders(
    total: int, weights: list[float], expected: list[int]
) -> None:
    assert list(apportion(total, {str(i): weight for i, weight in enumerate(weights)}).values()) == expected


@given(total=st.integers(0, 500), weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8))
def test_shares_sum_to_the_whole_and_each_is_its_quota_rounded(total: int, weights: list[float]) -> None:
    counts = apportion(total, {str(i): weight for i, weight in enumerate(weights)})
    assert sum(counts.values()) == total
    whole = sum(map(Fraction, weights))
    for count, weight in zip(counts.values(), weights, strict=True):
        quota = total * Fraction(weight) / whole
        assert count in (math.floor(quota), math.ceil(quota))


def _shared(tasks: int, **shares: float) -> dict[str, int]:
    sources = ", ".join(f"{name}: {{share: {share}}}" for name, share in shares.items())
    overrides = [f"objective.sources={{{sources}}}", f"train.tasks_per_step={tasks}"]
    config = load_config("quickstart", ["method=thinking-machines", "objective.where={}", *overrides])
    return config.tasks_at(Clock(0, config.train.steps))


def test_a_source_without_a_task_is_refused_with_the_configuration() -> None:
    assert _shared(5, own=1, other=1) == {"own": 3, "other": 2}
    assert _shared(5, own=5, other=1) == {"own": 4, "other": 1}
    with pytest.raises(
        ConfigError, match=r"^objective\.sources\.other\.share: 1 comes to none of the train\.tasks_per_s"
    ):
        _shared(5, own=99, other=1)
    with pytest.raises(ConfigError, match=r"^objective\.sources\.c\.share: .* shared as \{'a': 1, 'b': 1, 'c': 0\}"):
        _shared(2, a=1, b=1, c=1)


def test_a_method_without_a_source_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^objective\.sources: there is none"):
        load_config("quickstart", ["method=thinking-machines", "objective.sources={}"])
