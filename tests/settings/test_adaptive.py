"""Schedules that remember, by hand: TAID's t, and what retires; and the shapes of those that do not."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.config import load_config
from agentopd.errors import ConfigError
from agentopd.settings.choice import Choice, at, choices_in
from agentopd.settings.clock import Clock
from agentopd.settings.kinds import Kinds
from agentopd.settings.schedules import SCHEDULES
from agentopd.settings.states import advanced

SCHEDULE = Kinds("schedule", SCHEDULES)


def values(schedule: Choice, losses: Sequence[float | None], total: int = 11) -> list[float]:
    """What it gives at each step, one more than ``losses``; a loss that is None was not measured, since nothing was trained."""
    states: dict[str, Any] = {}
    found = [at(schedule, Clock(0, total), "t")]
    for step, loss in enumerate(losses):
        trained = {"objective/loss/rows": 0.0} if loss is None else {"train/loss/divergence": loss}
        states = json.loads(json.dumps(advanced([schedule], Clock(step, total, trained, states))))
        found.append(at(schedule, Clock(step + 1, total, trained, states), "t"))
    return found


def taid(**settings: Any) -> Choice:
    return SCHEDULE.validate({"kind": "taid", "metric": "train/loss/divergence", **settings})


def sigmoid(m: float) -> float:
    return 1 / (1 + math.exp(-m))


def test_taid_by_hand() -> None:
    found = values(taid(alpha=0.5, momentum=0.9), [2.0, 1.0, 1.5, None, 0.3])
    first = 0.4 + 0.6 * 0.1  # nothing to compare with yet: the line
    m = 0.1 * 0.5
    second = first + 0.5 * sigmoid(m) * (1 - first)
    m = 0.9 * m + 0.1 * -0.5
    third = second + 0.5 * sigmoid(m) * (1 - second)
    m = 0.9 * m + 0.1 * (1.5 - 0.3) / 1.5
    last = third + 0.5 * sigmoid(m) * (1 - third)
    assert found == pytest.approx([0.4, first, second, third, third, last])


def test_taid_is_the_line_without_its_rate_and_ends_at_its_end() -> None:
    line = [0.4 + 0.06 * n for n in range(11)]
    assert values(taid(alpha=0.0), [1.0] * 10) == pytest.approx(line)
    assert values(taid(), [math.nan, math.inf, *[1.0] * 8]) == pytest.approx(line, abs=0.01)
    assert values(taid(end=0.6, alpha=0.9), [1.0] * 10)[-1] == 0.6


def test_taid_stands_in_its_target() -> None:
    share = "{kind: taid, metric: train/loss/divergence}"
    config = load_config("quickstart", [f"objective.target={{kind: interpolate, name: teacher, share: {share}}}"])
    (target,) = (term.target for term in config.objective.terms)
    states = advanced(choices_in(config), Clock(0, 11, {"train/loss/divergence": 1.0}))
    assert target.at(Clock(1, 11, {}, states))["share"] == pytest.approx(0.46)


@given(st.lists(st.floats(0.01, 100.0) | st.none(), max_size=10), st.floats(0.0, 5.0))
def test_taid_only_rises_between_its_ends(losses: list[float | None], alpha: float) -> None:
    found = values(taid(start=0.2, end=0.9, alpha=alpha), losses)
    assert found == sorted(found)
    assert found[0] == 0.2
    assert found[-1] <= 0.9


def retire(**settings: Any) -> Choice:
    return SCHEDULE.validate({"kind": "retire", "metric": "train/loss/divergence", **settings})


def test_what_no_longer_shrinks_retires_for_good() -> None:
    losses = [3.0, 2.0, 2.5, None, 2.0, 1.0, 1.0, 1.0, 0.5]
    assert values(retire(patience=2), losses) == [1.0] * 5 + [0.0] * 5
    assert values(retire(patience=3, start=0.5, end=0.1), losses) == [0.5] * 10
    assert values(retire(patience=3, margin=0.5), losses) == [1.0] * 5 + [0.0] * 5


def depths(steps: Sequence[tuple[float | None, float | None]], **settings: Any) -> list[float]:
    """The depth at each step, one more than ``steps``, which have the centre of the divergence and the turns that cover the successes."""
    schedule = SCHEDULE.validate({"kind": "adaptive_depth", "every": 3, **settings})
    states: dict[str, Any] = {}
    found = [at(schedule, Clock(0, 11), "max_turns")]
    for step, (centre, solved) in enumerate(steps):
        seen = {"objective/loss/rows": 0.0} if centre is None else {"train/loss/centre": centre}
        seen |= {} if solved is None else {"rollout/solved_within": solved}
        states = json.loads(json.dumps(advanced([schedule], Clock(step, 11, seen, states))))
        found.append(at(schedule, Clock(step + 1, 11, seen, states), "max_turns"))
    return found


def test_depth_by_hand() -> None:
    seen = [(2.4, None), (9.0, 9.0), (9.0, 9.0), (4.0, 6.0), (1.0, 1.0), (1.0, 1.0), (3.2, 8.0), (1.0, 1.0)]
    # after step 0 the centre, up; after step 3 max(0.5 * 2.4 + 0.5 * 4, 6); after step 6 max(3.2, 0.5 * 6 + 0.5 * 8)
    assert depths(seen) == [1000.0, 3.0, 3.0, 1000.0, 6.0, 6.0, 1000.0, 7.0, 7.0]
    assert depths(seen, momentum=0.75, full=20.0, least=4.0) == [20.0, 4.0, 4.0, 20.0, 6.0, 6.0, 20.0, 7.0, 7.0]
    assert depths([(5.0, 6.0)], full=4.5) == [4.5, 4.5]


def test_depth_is_full_until_something_is_known() -> None:
    assert depths([(None, None), (None, 2.0), (3.0, None), (9.0, 9.0)]) == [1000.0, 1000.0, 1000.0, 1000.0, 6.0]
    assert depths([(None, None), (2.0, None), (5.0, 5.0)]) == [1000.0, 1000.0, 2.0, 1000.0]
    agreed = Clock(0, 9, {"train/loss/divergence": 0.0, "objective/loss/rows": 4.0})
    assert list(advanced([SCHEDULE.validate("adaptive_depth")], agreed).values()) == [{"centre": None, "solved": None}]
    with pytest.raises(ConfigError, match=r"metric=train/loss/centre: nothing of that name was measured"):
        advanced([SCHEDULE.validate("adaptive_depth")], Clock(0, 9, {"train/loss/divergence": 1.0}))
    with pytest.raises(ConfigError, match=r"full=2\.0 is below least=3\.0"):
        load_config("quickstart", ["objective.sampler.max_turns={kind: adaptive_depth, least: 3.0, full: 2.0}"])


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            {"train/loss/divergense": 1.0},
            r"metric=train/loss/divergence: nothing of that name was measured \(did you mean",
        ),
        ({"objective/loss/rows": 3.0}, "give one of: objective/loss/rows"),
        ({}, "give one of: none"),
    ],
)
def test_a_metric_that_does_not_exist(metrics: dict[str, float], message: str) -> None:
    for schedule in (taid(), retire()):
        with pytest.raises(ConfigError, match=f"^schedule '{schedule.kind}' cannot go on after step 3: .*{message}"):
            advanced([schedule], Clock(3, 9, metrics))


def counted(clock: Clock, *, start: float) -> float:
    """A schedule of one's own that counts the steps it has seen."""
    return start + (clock.state or 0)


def _count(state: Any, clock: Clock, *, start: float) -> Any:
    return (state or 0) + 1


counted.advance = _count  # type: ignore[attr-defined]


def test_ones_own_schedule_may_remember_and_two_of_the_same_content_share_it() -> None:
    own = "{kind: 'test_adaptive:counted', start: 0.25}"
    config = load_config(
        "quickstart",
        [f"objective.coefficient={own}", f"objective.weight={{kind: teacher_entropy, scale: {own}}}"],
    )
    states: dict[str, Any] = {}
    for step in range(3):
        states = advanced(choices_in(config), Clock(step, 9, {}, states))
    assert list(states.values()) == [3]
    (term,) = config.objective.terms
    clock = Clock(3, 9, {}, states)
    assert at(term.coefficient, clock, "c") == 3.25
    assert term.weight[0].at(clock)["scale"] == 3.25


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("{kind: taid, metric: loss, start: 0.9, end: 0.5}", "end=0.5 is below start=0.9"),
        ("{kind: taid}", "metric: missing"),
        ("{kind: retire, metric: loss, start: 2.0}", "share: Input should be less than or equal to 1"),
        ("{kind: linear, start: 0.0, end: 1.0, steps: 3, share: 0.5}", "steps=3 and share=0.5 both say when it ends"),
        ("{kind: linear, start: 0.0, end: 1.0, share: 1.5}", "share: Input should be less than or equal to 1"),
        ("{kind: stairs, start: 0.0, end: 3.0, every: 2}", "share: Input should be less than or equal to 1"),
    ],
)
def test_refused_when_a_configuration_is_read(schedule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", [f"objective.aggregate={{kind: blend, share: {schedule}}}"])


def test_stairs_and_shares_of_a_run_by_hand() -> None:
    stairs = SCHEDULE.validate({"kind": "stairs", "start": 1.0, "end": 3.0, "every": 2})
    assert [at(stairs, Clock(n, 9), "k") for n in range(7)] == [1, 1, 2, 2, 3, 3, 3]
    down = SCHEDULE.validate({"kind": "stairs", "start": 3.0, "end": 1.5, "every": 1, "by": 0.5})
    assert [at(down, Clock(n, 9), "k") for n in range(5)] == [3.0, 2.5, 2.0, 1.5, 1.5]
    guided = SCHEDULE.validate({"kind": "cosine", "start": 1.0, "end": 0.0, "share": 0.8})
    expected = [0.5 * (1 + math.cos(math.pi * min(s / (0.8 * 250), 1))) for s in range(251)]
    assert [at(guided, Clock(s, 251), "b") for s in range(251)] == pytest.approx(expected)
    late = SCHEDULE.validate({"kind": "linear", "start": 0.0, "end": 1.0, "begin": 2, "share": 0.6})
    assert [at(late, Clock(s, 11), "b") for s in (2, 4, 6, 7)] == [0.0, 0.5, 1.0, 1.0]
