"""Areas, bootstraps and tests at once, beside scipy's and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from benchmarks.inference import auroc, clustered, detectable, holm_levels, paired

SCORES = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40)


@given(SCORES)
def test_area_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    score_N, positive_N = np.array([float(s) for s, _ in pairs]), np.array([p for _, p in pairs])
    if positive_N.all() or not positive_N.any():
        assert math.isnan(auroc(score_N, positive_N))
        return
    high, low = score_N[positive_N], score_N[~positive_N]
    assert auroc(score_N, positive_N) == pytest.approx(mannwhitneyu(high, low).statistic / len(high) / len(low))


def test_clusters_are_drawn_whole() -> None:
    cluster_N, value_N = np.array([0, 1, 0, 1]), np.array([1.0, 5.0, 1.0, 5.0])
    drawn = clustered(cluster_N, lambda at: float(value_N[at].mean()), draws=400)
    assert set(drawn) == {1.0, 3.0, 5.0}
    assert np.mean(drawn == 3.0) == pytest.approx(0.5, abs=0.1)


def test_the_levels_of_holm_by_hand() -> None:
    assert holm_levels([0.01, 0.04, 0.03], 0.06) == pytest.approx([0.02, 0.06, 0.03])


def test_paired_differences_of_seeds_by_hand() -> None:
    found = paired([1.0, 2.0, 3.0])
    assert (found.mean, found.spread) == (2.0, 1.0)
    assert found.p == pytest.approx(0.0741799, abs=1e-6)  # t = 2 sqrt(3) with 2 degrees of freedom
    low, high = found.interval(0.95)
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5)


def test_interval_and_p_value_agree() -> None:
    found = paired([0.3, -0.1, 0.2, 0.4])
    assert found.interval(1 - found.p)[0] == pytest.approx(0.0, abs=1e-9)


def test_what_is_detectable_is_detected_as_often_as_asked() -> None:
    random, effect = np.random.default_rng(0), detectable(spread=1.0, n=10, level=0.05, power=0.8)
    found = [paired(random.normal(effect, 1.0, 10)).p < 0.05 for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
