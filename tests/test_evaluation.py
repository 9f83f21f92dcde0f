"""Intervals against published numbers and scipy; panels by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from agentopd import records
from agentopd.chat import Chat
from agentopd.env import TextEnv
from agentopd.errors import ConfigError
from agentopd.evaluation import Depth, Panel, Rate, by_depth, paired_difference, run_panel, wilson
from agentopd.models import build_tokenizer
from agentopd.rollout import Rollout, ScriptedPolicy
from agentopd.tooling import call, tool
from agentopd.types import Failure, Key, Outcome, Record, Task, Trajectory, Turn


@given(st.integers(1, 400), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(n: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, n))
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_against_a_published_example() -> None:
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3)."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(st.integers(1, 10_000), st.data())
def test_a_rate_lies_in_its_interval(n: int, data: st.DataObject) -> None:
    rate = Rate(data.draw(st.integers(0, n)), n)
    assert 0 <= rate.interval.low <= rate.value <= rate.interval.high <= 1


def test_no_trials_say_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert math.isnan(Rate(0, 0).value)
    assert Rate(0, 0).text() == "no episodes"


@pytest.mark.parametrize(("successes", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=f"successes={successes}, n={n}"):
        wilson(successes, n, confidence)


def test_a_rate_as_text() -> None:
    assert Rate(157, 200).text() == "78.5% [72.3, 83.6]"


def _pairs(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, gained, lost, neither)
    return np.repeat([True, False, True, False], counts), np.repeat([True, True, False, False], counts)


def test_paired_difference_against_a_published_example() -> None:
    """Cavo et al. 2012, in Fagerland, Lydersen, Laake, Statistical Analysis of Contingency Tables (2017), chapter 8."""
    found = paired_difference(*_pairs(59, 6, 16, 80))
    assert (found.value, found.low, found.high) == pytest.approx((-0.0621, -0.1186, -0.0046), abs=6e-5)


def test_paired_difference_by_hand_where_pairs_are_opposite() -> None:
    """Two gained, one lost, nothing else: correlation -1, so the distances to the limits add up."""
    found = paired_difference(*_pairs(0, 2, 1, 0))
    now, was = wilson(2, 3), wilson(1, 3)
    assert found.value == pytest.approx(1 / 3)
    assert found.low == pytest.approx(1 / 3 - (2 / 3 - now.low) - (was.high - 1 / 3))
    assert found.high == pytest.approx(1 / 3 + (now.high - 2 / 3) + (1 / 3 - was.low))


def test_paired_difference_by_hand_where_the_correction_leaves_no_correlation() -> None:
    """2 * 1 - 1 * 1 = 1 is less than n / 2 = 2.5: as if the samples were independent."""
    found = paired_difference(*_pairs(2, 1, 1, 1))
    limits = wilson(3, 5)
    assert found.value == 0
    assert found.high == pytest.approx(math.hypot(limits.high - 0.6, 0.6 - limits.low))
    assert found.low == pytest.approx(-found.high)


def test_paired_difference_by_hand_where_one_rate_is_one() -> None:
    """All gained, none lost: the intervals are those of 0 and 10 of 10, joined without correlation."""
    found = paired_difference([False] * 10, [True] * 10)
    low, high = wilson(10, 10).low, wilson(0, 10).high
    assert found.value == 1
    assert found.low == pytest.approx(1 - math.hypot(1 - low, high))
    assert found.high == 1


@given(*[st.integers(0, 60)] * 4)
def test_paired_difference_is_antisymmetric_and_holds_its_value(
    both: int, gained: int, lost: int, neither: int
) -> None:
    if both + gained + lost + neither == 0:
        return
    before, after = _pairs(both, gained, lost, neither)
    found, back = paired_difference(before, after), paired_difference(after, before)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert -1 - 1e-12 <= found.low <= found.value <= found.high <= 1 + 1e-12


def test_pairing_narrows_the_interval_and_more_seeds_narrow_it_further() -> None:
    before, after = _pairs(40, 20, 2, 38)
    paired = paired_difference(before, after)
    shuffled = paired_difference(np.random.default_rng(0).permutation(before), after)
    pooled = paired_difference(np.tile(before, 3), np.tile(after, 3))
    assert pooled.high - pooled.low < paired.high - paired.low < shuffled.high - shuffled.low
    assert pooled.value == pytest.approx(paired.value)
    assert paired.text().startswith("+18.0 points [")


def test_paired_difference_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        paired_difference([True, False], [True, False, True])
    with pytest.raises(ValueError, match="at least one"):
        paired_difference([], [])


def _trajectory(
    i: int, success: bool, errors: tuple[tuple[str, ...], ...], stop: str = "terminated", failure: Failure | None = None
) -> Trajectory:
    turns = tuple(Turn(d, "student", 0, 0, 1, "a", "a", errors=kinds) for d, kinds in enumerate(errors))
    outcome = Outcome(float(success), success, stop)  # type: ignore[arg-type]
    return Trajectory(Key("panel", 0, i), Task("toy/Sum-v0", i), ("student",), (), turns, outcome, failure=failure)


def _panel() -> Panel:
    return Panel.of(
        [
            _trajectory(0, True, ((), ())),
            _trajectory(1, False, (("no_call",), ("unknown_tool", "no_call"))),
            _trajectory(2, True, ((),)),
            _trajectory(3, True, (), "failed", Failure("env", "raised", "boom")),
            _trajectory(4, False, ((), (), ("no_call",)), "turn_limit"),
        ]
    )


def test_a_panel_by_hand() -> None:
    panel = _panel()
    assert panel.success == Rate(2, 5)
    assert panel.failed == 1
    assert panel.errors() == {"no_call": 3, "unknown_tool": 1}
    assert panel.stops() == {"terminated": 3, "failed": 1, "turn_limit": 1}
    assert panel.mean_turns == pytest.approx(8 / 5)
    assert panel.mean_reward == pytest.approx(3 / 5)
    assert panel.by_depth() == [
        Depth(0, Rate(0, 1), 0, 0),
        Depth(1, Rate(1, 1), 4, 1),
        Depth(2, Rate(1, 2), 3, 2),
        Depth(3, Rate(0, 1), 1, 1),
    ]


def _families() -> tuple[Panel, Panel]:
    """Before: a failed start, then gcd 1 of 2 and sum 0 of 2. After: gcd 3 of 3 and sum 0 of 2."""
    kinds, was, now = ["gcd", "sum", "gcd", "gcd", "sum"], [0, 0, 1, 0, 0], [1, 0, 1, 1, 0]
    before = [
        replace(_trajectory(i, bool(s), ((),)), family=f) for i, (f, s) in enumerate(zip(kinds, was, strict=True))
    ]
    after = [replace(_trajectory(i, bool(s), ((),)), family=f) for i, (f, s) in enumerate(zip(kinds, now, strict=True))]
    before[0] = _trajectory(0, False, (), "failed", Failure("env", "raised", "boom"))
    return Panel.of(before), Panel.of(after)


def test_families_by_hand() -> None:
    before, after = _families()
    assert list(after.by_family().items()) == [("gcd", Rate(3, 3)), ("sum", Rate(0, 2))]
    assert list(before.by_family().items()) == [("gcd", Rate(1, 2)), ("sum", Rate(0, 2)), ("toy/Sum-v0", Rate(0, 1))]
    gcd, sums = paired_difference([0, 1, 0], [1, 1, 1]), paired_difference([0, 0], [0, 0])
    assert list(after.changes_from(before).items()) == [("gcd", gcd), ("sum", sums)]
    assert gcd.value == pytest.approx(2 / 3)
    with pytest.raises(ConfigError, match="their tasks differ"):
        after.changes_from(Panel(before.episodes[1:]))


def test_an_environment_that_tells_no_family_is_one() -> None:
    played = [_trajectory(i, i == 1, ((),)) for i in range(3)]
    played.append(replace(played[0], task=Task("toy/Other-v0", 0)))
    assert Panel.of(played).by_family() == {"toy/Other-v0": Rate(0, 1), "toy/Sum-v0": Rate(1, 3)}


def test_a_panel_that_was_kept_before_there_were_families_is_read() -> None:
    plain = _panel().to_dict()
    for played in plain["episodes"]:
        del played["family"]
    assert Panel.from_dict(plain) == _panel()


def test_a_panel_goes_through_json() -> None:
    assert Panel.from_dict(json.loads(json.dumps(_panel().to_dict()))) == _panel()


def test_an_empty_panel() -> None:
    panel = Panel.of([])
    assert panel.by_depth() == []
    assert math.isnan(panel.mean_reward)
    assert panel.success.n == 0


def test_panels_are_paired_by_task() -> None:
    before = Panel.of([_trajectory(i, i == 0, ((),)) for i in range(4)])
    after = Panel.of([_trajectory(i, i != 1, ((),)) for i in range(4)])
    assert after.change_from(before) == paired_difference([1, 0, 0, 0], [1, 0, 1, 1])
    with pytest.raises(ConfigError, match="their tasks differ"):
        Panel.of([_trajectory(i + 1, True, ((),)) for i in range(4)]).change_from(before)


def test_by_depth_by_hand() -> None:
    assert by_depth([0, 0, 2, 2, 1], [1.0, 3.0, 5.0, np.nan, np.nan]) == [(0, 2.0, 2), (2, 5.0, 1)]
    assert by_depth([], []) == []


class Parity(TextEnv):
    """Say whether a number is odd; the seed decides."""

    instructions = "Answer."

    def start(self) -> str:
        if self.options.get("broken"):
            raise RuntimeError("no number")
        self.odd = bool(self.np_random.integers(2))
        return f"Is {3 if self.odd else 4} odd?"

    @tool
    def answer(self, odd: bool) -> str:
        """Answers.

        Args:
            odd: Whether it is.
        """
        self.finish(reward=float(odd == self.odd))
        return "Thank you."

    def privileged(self) -> dict[str, bool]:
        return {"odd": self.odd}


if "tests/Parity-v0" not in gymnasium.registry:
    gymnasium.register("tests/Parity-v0", entry_point=Parity)


def test_a_panel_is_played_and_its_episodes_can_be_recorded(tmp_path: Path) -> None:
    tokenizer = build_tokenizer([call("answer", odd=True)], vocab_size=400)
    chat = Chat(tokenizer)
    say = [*tokenizer.encode(call("answer", odd=True), add_special_tokens=False), chat.end_of_turn]
    tasks = [Task("tests/Parity-v0", seed) for seed in range(12)]
    tasks.append(Task("tests/Parity-v0", 0, options={"broken": True}))
    played: list[Trajectory] = []
    settings = Rollout(max_new_tokens=200, max_length=4000, max_turns=2)
    panel = run_panel(tasks, ScriptedPolicy([say]), chat, settings, seed=3, on_done=played.append)
    odd = [_odd(seed) for seed in range(12)]
    assert [episode.success for episode in panel.episodes] == [*odd, False]
    assert 0 < sum(odd) < 12
    assert [episode.task for episode in panel.episodes] == [task.id for task in tasks]
    assert (panel.failed, panel.success) == (1, Rate(sum(odd), 13))
    ordered = sorted(played, key=lambda trajectory: trajectory.key)
    assert Panel.of(ordered) == panel
    written = [Record(trajectory) for trajectory in ordered]
    records.RecordWriter(tmp_path).write(0, written)
    assert list(records.open(tmp_path)) == written


def _odd(seed: int) -> bool:
    env = Parity()
    env.reset(seed=seed)
    return env.odd
