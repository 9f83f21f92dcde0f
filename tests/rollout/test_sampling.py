import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.rollout.policy import Rollout
from agentopd.rollout.sampling import NUCLEUS, draw, processed, uniforms

LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64))


def probabilities(**kwargs: float) -> list[float]:
    return [round(p, 9) for p in processed(LOGITS, Rollout.model_validate(kwargs)).exp()[0].tolist()]


def test_the_processed_distribution_by_hand() -> None:
    assert probabilities() == [0.1, 0.4, 0.2, 0.3]
    assert probabilities(top_k=2) == [0.0, round(4 / 7, 9), 0.0, round(3 / 7, 9)]
    assert probabilities(top_p=0.69) == [0.0, round(4 / 7, 9), 0.0, round(3 / 7, 9)]
    assert probabilities(top_p=0.71) == [0.0, round(4 / 9, 9), round(2 / 9, 9), round(3 / 9, 9)]
    assert probabilities(top_p=0.01) == [0.0, 1.0, 0.0, 0.0]
    squares = [0.01, 0.16, 0.04, 0.09]
    assert probabilities(temperature=0.5) == [round(p / sum(squares), 9) for p in squares]


def test_top_p_counts_mass_within_the_top_k() -> None:
    assert probabilities(top_k=3, top_p=0.6) == [0.0, round(4 / 7, 9), 0.0, round(3 / 7, 9)]
    assert probabilities(top_k=3, top_p=0.4) == [0.0, 1.0, 0.0, 0.0]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 99),
    peak=st.sampled_from([0.0, 0.1, 1.0, 8.0]),
    levels=st.sampled_from([2, 3, 50, 100_000]),
    top_p=st.floats(0.01, 0.999),
)
def test_top_p_over_a_large_vocabulary_is_its_definition(seed: int, peak: float, levels: int, top_p: float) -> None:
    """Flat rows beside peaked ones; few levels make many tokens equal, at the boundary too."""
    generator = np.random.default_rng(seed)
    values_B_V = np.round(generator.random((3, 3 * NUCLEUS)) * levels) / levels * 8
    values_B_V *= np.array([[peak], [1.0], [8.0]])
    logits_B_V = torch.from_numpy(values_B_V)
    kept_B_V = processed(logits_B_V, Rollout(top_p=top_p)).isfinite().numpy()
    for kept_V, logits_V in zip(kept_B_V, logits_B_V, strict=True):
        probability_V = torch.softmax(logits_V, 0).numpy()
        order_V = np.argsort(-logits_V.numpy(), kind="stable")
        before_V = np.cumsum(probability_V[order_V]) - probability_V[order_V]
        near = np.abs(before_V - top_p) < 1e-9
        expected_V = before_V < top_p
        expected_V[0] = True
        assert (kept_V[order_V] == expected_V)[~near].all()


def test_temperature_zero_is_a_point_with_logprob_zero() -> None:
    logprob_B_V = processed(LOGITS, Rollout(temperature=0.0))
    assert logprob_B_V.tolist() == [[-math.inf, 0.0, -math.inf, -math.inf]]
    assert draw(logprob_B_V, torch.tensor([0.999], dtype=torch.float64)).tolist() == [1]


@pytest.mark.parametrize(
    ("number", "token"), [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.4999, 1), (0.5001, 2), (0.7001, 3)]
)
def test_draws_invert_the_cdf(number: float, token: int) -> None:
    assert draw(processed(LOGITS, Rollout()), torch.tensor([number], dtype=torch.float64)).tolist() == [token]


@settings(max_examples=50)
@given(
    logits=st.lists(st.floats(-30, 30), min_size=2, max_size=9),
    number=st.floats(0, 1, exclude_max=True),
    top_k=st.integers(0, 9),
    top_p=st.floats(0.05, 1.0),
)
def test_a_drawn_token_was_kept(logits: list[float], number: float, top_k: int, top_p: float) -> None:
    logprob_1_V = processed(torch.tensor([logits], dtype=torch.float32), Rollout(top_k=top_k, top_p=top_p))
    token = int(draw(logprob_1_V, torch.tensor([number], dtype=torch.float64)))
    assert math.isfinite(float(logprob_1_V[0, token]))
    assert float(logprob_1_V.exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_draws_follow_the_distribution() -> None:
    numbers = torch.from_numpy(np.concatenate([uniforms(seed, 100) for seed in range(100)]))
    tokens = draw(processed(LOGITS, Rollout()).expand(len(numbers), -1), numbers)
    shares = torch.bincount(tokens, minlength=4) / len(tokens)
    np.testing.assert_allclose(shares.numpy(), [0.1, 0.4, 0.2, 0.3], atol=0.02)


def test_uniforms_depend_on_seed_and_place_alone() -> None:
    assert uniforms(7, 3).tolist() == uniforms(7, 5)[:3].tolist()
    assert uniforms(7, 3).tolist() != uniforms(8, 3).tolist()
