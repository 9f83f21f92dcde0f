"""Two answers to one question: the same, as good as the same, or another."""

import numpy as np
import pytest

from agentopd.doctor.answers import ROUNDED, repeated
from agentopd.types import Annotation, Sampled

ROWS = 400


def said(off: float = 0.0, worst: float = 0.0, reward: float = 1.0) -> Annotation:
    """Log-probabilities that are off by so much on average, and one by more; and a reward."""
    logprob_N = np.full(ROWS, -2.0, np.float32)
    logprob_N[1::2] += 2 * off
    logprob_N[0] += worst
    rows_N, entropy_N = np.arange(ROWS, dtype=np.int32), np.full(ROWS, np.nan, np.float32)
    one = np.ones(1)
    return Annotation(
        "t", 0 * rows_N, rows_N, Sampled(), logprob_N, entropy_N, (reward * one).astype(np.float32), one == 0
    )


@pytest.mark.parametrize(
    ("again", "status"),
    [
        (said(), "pass"),
        (said(worst=5e-4), "pass"),
        (said(off=0.5 * ROUNDED), "warn"),
        (said(worst=0.5), "warn"),  # one unlikely token
        (said(off=2 * ROUNDED), "fail"),
        (said(reward=1.01), "fail"),
        (said(worst=np.nan), "fail"),
    ],
)
def test_what_half_precision_makes_of_an_answer_is_no_failure(again: Annotation, status: str) -> None:
    assert repeated("teachers.t", [said()], [again]).status == status
