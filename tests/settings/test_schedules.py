"""A schedule gives numbers that its setting takes: its ends are known beforehand, the rest is checked when it is read."""

from typing import Any

import numpy as np
import pytest

from agentopd.config import load_config
from agentopd.errors import ConfigError
from agentopd.settings.choice import at, numbers_of
from agentopd.settings.clock import Clock

SCORED = ["method=thinking-machines", "objective.sampler.per_task=2"]


def linear(start: float, end: float) -> str:
    return f"{{kind: linear, start: {start}, end: {end}, steps: 2}}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [f"objective.aggregate={{kind: blend, share: {linear(0.0, 2.0)}}}"],
            "share: Input should be less than or equal to 1",
        ),
        ([f"objective.divergence={{kind: jsd, beta: {linear(0.0, 0.5)}}}"], "beta: Input should be greater than 0"),
        ([f"objective.divergence={{kind: jsd, beta: {linear(0.5, 1.0)}}}"], "beta: Input should be less than 1"),
        (
            ["objective.divergence={kind: jsd, beta: {kind: step, values: [0.5, 1.5], boundaries: [9]}}"],
            "beta: Input should be less",
        ),
        (
            [f"objective.weight={{kind: teacher_entropy, scale: {linear(1.0, 0.0)}}}"],
            "scale: Input should be greater than 0",
        ),
        (
            [*SCORED, f"objective.coupling={{kind: advantage_sum, reinforcement: {linear(1.0, -3.0)}}}"],
            "reinforcement: Input should",
        ),
        ([*SCORED, f"objective.estimator.clip_low={linear(0.2, 3.0)}"], "clip_low: Input should be less than 1"),
        (
            [f"objective.sampler={{actors: {{student: 1.0, teacher: {linear(1.0, -1.0)}}}}}"],
            "shares must be at least 0",
        ),
        (
            ["objective.sampler={actors: {student: {kind: linear, start: 1.0, end: 0.0}}}"],
            "at step 299 all shares are 0",
        ),
        ([f"objective.sampler={{actors: {{student: {linear(0.0, 0.0)}}}}}"], "one of them above"),
    ],
)
def test_the_ends_of_a_schedule_are_looked_at_when_a_configuration_is_read(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", overrides)


def test_shares_may_cross() -> None:
    crossing = "{student: {kind: linear, start: 0.0, end: 1.0}, teacher: {kind: linear, start: 1.0, end: 0.0}}"
    load_config("quickstart", [f"objective.sampler={{actors: {crossing}}}"])


def given(clock: Clock, *, what: Any = None) -> Any:
    """A schedule of one's own that is well only at first."""
    if clock.step == 0:
        return 0.5
    if what == "metric":
        return clock.metrics["nope"]
    return {"nan": float("nan"), "array": np.ones(1), "none": None, "text": "0.5", "large": 1.5, "truth": True}[what]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("metric", "raised KeyError at step 3: 'nope'; a schedule gives a number at every step"),
        ("nan", "gives nan at step 3: Input should be a finite number"),
        ("array", r"gives array\(\[1\.\]\) at step 3: Input should be a valid number"),
        ("none", "gives None at step 3: Input should be a valid number"),
        ("text", "gives '0.5' at step 3: Input should be a valid number"),
        ("truth", "gives True at step 3: Input should be a valid number"),
        ("large", "gives 1.5 at step 3: Input should be less than 1"),
    ],
)
def test_a_schedule_of_ones_own_is_checked_at_every_step(what: str, message: str) -> None:
    own = f"{{kind: 'test_schedules:given', what: {what}}}"
    objective = load_config("quickstart", [f"objective.divergence={{kind: jsd, beta: {own}}}"]).objective
    divergence = objective.terms[0].divergence
    assert divergence.at(Clock(0, 9))["beta"] == 0.5
    with pytest.raises(ConfigError, match=f"^beta of 'jsd': the schedule 'test_schedules:given' {message}"):
        divergence.at(Clock(3, 9))
    coefficient = load_config("quickstart", [f"objective.coefficient={own}"]).objective.terms[0].coefficient
    if what == "large":
        assert at(coefficient, Clock(3, 9), "c") == 1.5
    else:
        with pytest.raises(ConfigError, match=r"^objective\.coefficient: the schedule"):
            at(coefficient, Clock(3, 9), "objective.coefficient")


def numpys(clock: Clock) -> Any:
    return np.float32(0.25)


def test_a_number_of_numpy_is_a_number() -> None:
    config = load_config("quickstart", ["objective.coefficient={kind: 'test_schedules:numpys'}"])
    (term,) = config.objective.terms
    assert at(term.coefficient, Clock(1, 2), "c") == 0.25
    assert numbers_of(term.coefficient) == []
