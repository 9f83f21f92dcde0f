"""``records.student_k``: what the learner's own likeliest tokens were, kept beside the other signals."""

from pathlib import Path

import numpy as np
import pytest
import training_cases as cases

from agentopd import records
from agentopd.errors import ConfigError
from agentopd.training.run.whole import train


def test_a_run_keeps_the_students_likeliest_tokens(tmp_path: Path) -> None:
    train(cases.tiny("records.student_k=3", steps=1), tmp_path / "run")
    seen = records.open(tmp_path / "run").signals(0)
    ids_A_K, logprob_A_K, taken_A = seen["student_top/ids"], seen["student_top/logprob"], seen["current_logprob"]
    learned_A = ~np.isnan(taken_A)
    assert learned_A.any()
    assert ids_A_K.shape == logprob_A_K.shape == (len(taken_A), 3)
    assert (ids_A_K[learned_A] >= 0).all()
    assert (ids_A_K[~learned_A] == -1).all()
    assert (np.diff(logprob_A_K[learned_A], axis=1) <= 0).all()
    assert (logprob_A_K[learned_A, 0] >= taken_A[learned_A] - 1e-5).all()
    taken = records.open(tmp_path / "run").table(["key"])["key"].to_pylist()
    for key in taken:
        tokens = records.open(tmp_path / "run").tokens(key)
        rows_A = seen["trajectory"] == key
        for token, place, segment in zip(tokens["token"], tokens["index"], tokens["segment"], strict=True):
            [row] = np.flatnonzero(rows_A & (seen["index"] == place) & (seen["segment"] == segment))
            at_K = ids_A_K[row] == token
            if at_K.any():  # a token that was taken has there the probability that it has elsewhere
                assert logprob_A_K[row][at_K] == pytest.approx(taken_A[row], abs=1e-5)


@pytest.mark.parametrize("off", ["records.signals=false", "records.keep=false"])
def test_nothing_would_hold_them(off: str) -> None:
    with pytest.raises(ConfigError, match=r"records: .*student_k=3: signals hold these tokens"):
        cases.tiny("records.student_k=3", off)
