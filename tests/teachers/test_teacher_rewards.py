"""Teachers that give rewards: of whole episodes, of turns, and within a group."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from teacher_cases import context, episode

from agentopd.config import load_config
from agentopd.errors import ConfigError, TeacherError
from agentopd.objective import Rows
from agentopd.teachers import Teacher, annotate
from agentopd.teachers.rewards import reward, verifier
from agentopd.types import Task, Trajectory
from agentopd.where import Where

NAN = math.nan
GIVEN: dict[str, Any] = {}
"""What :func:`told` returns of the episode with each seed."""
THREE = episode("..0.1.2")


def told(trajectory: Trajectory) -> Any:
    return GIVEN["told"]


def counted(trajectory: Trajectory) -> float:
    """How many turns it has."""
    return float(len(trajectory.turns))


def failing(trajectory: Trajectory) -> float:
    raise LookupError("no such file")


def keyed(trajectory: Trajectory, *, strict: bool) -> float:
    return 0.0


def by(given: Any, **settings: Any) -> Teacher:
    GIVEN["told"] = given
    return verifier(context("judge"), check="test_teacher_rewards:told", **settings)


@pytest.mark.parametrize(
    ("given", "where", "rewards", "skips"),
    [
        (2.5, Where(), [NAN, NAN, 2.5], [False, False, False]),
        (True, Where(), [NAN, NAN, 1.0], [False, False, False]),
        (np.float32(0.5), Where(max_turn=1), [NAN, 0.5, NAN], [False, False, True]),
        (torch.tensor(3), Where(), [NAN, NAN, 3.0], [False, False, False]),
        ([1, None, 0.25], Where(), [1.0, NAN, 0.25], [False, False, False]),
        (np.array([1.0, 2.0, 3.0]), Where(every=2), [1.0, NAN, 3.0], [False, True, False]),
    ],
)
def test_a_number_stands_on_the_last_turn_and_a_sequence_on_its_own(
    given: Any, where: Where, rewards: list[float], skips: list[bool]
) -> None:
    (said,) = annotate({"judge": by(given, where=where)}, [THREE])[0].annotations
    np.testing.assert_array_equal(said.reward_S, np.array(rewards, np.float32))
    assert said.skip_S.tolist() == skips


def test_a_number_for_the_episode_reaches_every_turn_before() -> None:
    rows = Rows.of(annotate({"judge": by(1.0)}, [THREE]))
    assert rows.teachers["judge"].rewarded_A.all()
    assert rows.teachers["judge"].reward_A.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("given", [NAN, math.inf, "good", None, [1.0, 2.0], [1.0, NAN, 0.0], [1.0, "x", 0.0], {}])
def test_anything_else_names_the_verifier_and_the_episode(given: Any) -> None:
    said = (
        r"^teacher 'judge', trajectory test/0/0/0: check=test_teacher_rewards:told returned .*; return a finite number"
    )
    with pytest.raises(TeacherError, match=said):
        annotate({"judge": by(given)}, [THREE])


def test_one_that_raises_is_named_with_the_episode() -> None:
    judge = verifier(context("judge"), check="test_teacher_rewards:failing")
    said = r"^teacher 'judge', trajectory test/0/0/0: check=test_teacher_rewards:failing raised LookupError: no such file; "
    with pytest.raises(TeacherError, match=said):
        annotate({"judge": judge}, [THREE])
    nothing = [episode("..0", failed=True), replace(THREE, segments=(), turns=())]
    for record in annotate({"judge": judge}, nothing):  # it is not asked
        assert record.annotations[0].skip_S.all()


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("test_teacher_rewards:telt", r"check: cannot import 'test_teacher_rewards:telt'"),
        ("nowhere.at_all:f", r"check: cannot import 'nowhere\.at_all:f'"),
        ("counted", r"check: cannot import 'counted'; the form is package\.module:name"),
        ("test_teacher_rewards:NAN", r"check: 'test_teacher_rewards:NAN' is not a function"),
        ("test_teacher_rewards:keyed", r"check: 'test_teacher_rewards:keyed' takes .*'strict'; the shape is"),
    ],
)
def test_a_check_is_found_when_a_configuration_is_read(check: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"teachers\.judge: teacher 'verifier': {said}"):
        load_config("quickstart", [f"teachers.judge={{kind: verifier, check: '{check}'}}"])


def of_task(layout: str, seed: int, task: int, rewards: tuple[float, ...] = ()) -> Trajectory:
    return replace(episode(layout, seed=seed, rewards=rewards), task=Task("test/Env-v0", task))


def test_rewards_of_a_group_are_above_and_below_its_mean() -> None:
    """Turns 1, 2 and 3 long; those of another task, and one that failed, are in no group with them."""
    group = [of_task("..0", 0, 0), of_task("..0.1.2", 1, 0), of_task("..0", 2, 1)]
    lost = replace(of_task("..0.1", 3, 0), failure=episode("..0", failed=True).failure)
    judge = verifier(context("judge"), check="test_teacher_rewards:counted", normalised="group", scale=-2.0)
    said = [record.annotations[0] for record in annotate({"judge": judge}, [*group, lost])]
    np.testing.assert_allclose(said[0].reward_S, [2.0], rtol=1e-5)
    np.testing.assert_allclose(said[1].reward_S, [NAN, NAN, -2.0], rtol=1e-5)
    assert said[2].reward_S.tolist() == [0.0]
    assert said[3].skip_S.all()


def test_step_rewards_of_a_group_are_those_of_selected_turns() -> None:
    first, second = of_task("..0.1", 0, 0, (1.0, 7.0)), of_task("..0.1", 1, 0, (0.0, 7.0))
    judge = reward(context("judge"), normalised="group", where=Where(max_turn=0))
    said = [record.annotations[0] for record in annotate({"judge": judge}, [first, second])]
    np.testing.assert_allclose([one.reward_S for one in said], [[1.0, NAN], [-1.0, NAN]], rtol=1e-5)
    assert [one.skip_S.tolist() for one in said] == [[False, True]] * 2


GROUPED: Mapping[str, Any] = {"kind": "reward", "normalised": "group"}


def test_a_group_of_one_is_refused_before_a_run() -> None:
    alone = ["method=grpo", f"teachers.judge={dict(GROUPED)}", "objective.target.name=judge"]
    load_config("quickstart", alone)
    with pytest.raises(ConfigError, match=r"teachers\.judge\.normalised=group: .* every source has per_task: 1"):
        load_config(
            "quickstart", [*alone, "objective.sampler.per_task=1", "objective.estimator={kind: score_function}"]
        )
