"""A frozen source: played once, kept, and drawn without replacement."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import training_cases as cases
from hypothesis import given
from hypothesis import strategies as st

from agentopd.errors import TrainingError
from agentopd.training.loop.pool import Pool
from agentopd.types import Trajectory


def episodes(size: int, failed: tuple[int, ...] = (), per_task: int = 1) -> list[Trajectory]:
    """Stand-ins that know their number, and their task."""
    made: list[Any] = [
        SimpleNamespace(i=i, failure="broken" if i in failed else None, task=SimpleNamespace(id=str(i // per_task)))
        for i in range(size)
    ]
    return cast(list[Trajectory], made)


def numbers(drawn: list[Trajectory]) -> list[int]:
    return [cast(Any, trajectory).i for trajectory in drawn]


@given(size=st.integers(1, 9), count=st.integers(1, 25), seed=st.integers(0, 2**32))
def test_no_episode_comes_again_before_all_others_have_come(size: int, count: int, seed: int) -> None:
    pool = Pool("fresh", seed, 1, None, lambda: episodes(size))
    drawn = [i for step in range(4) for i in numbers(pool.draw(step * count, count))]
    for start in range(0, len(drawn), size):
        whole = drawn[start : start + size]
        assert max(Counter(whole).values()) == 1
        expected = np.random.default_rng([seed, start // size]).permutation(size)
        assert whole == expected.tolist()[: len(whole)]


def test_a_draw_depends_on_the_step_alone_and_not_on_what_was_drawn_before() -> None:
    before = Pool("fresh", 3, 1, None, lambda: episodes(7))
    _ = [before.draw(step * 4, 4) for step in range(5)]
    resumed = Pool("fresh", 3, 1, None, lambda: episodes(7))
    assert numbers(before.draw(20, 4)) == numbers(resumed.draw(20, 4))
    assert numbers(before.draw(20, 4)) != numbers(Pool("fresh", 4, 1, None, lambda: episodes(7)).draw(20, 4))


def test_episodes_that_failed_are_left_out_and_one_must_be_left() -> None:
    pool = Pool("fresh", 0, 1, None, lambda: episodes(4, failed=(1, 2)))
    assert sorted(numbers(pool.draw(0, 2))) == [0, 3]
    with pytest.raises(TrainingError, match=r"objective\.sources\.fresh: all 2 episodes failed"):
        Pool("fresh", 0, 1, None, lambda: episodes(2, failed=(0, 1))).draw(0, 1)


def test_a_pool_is_played_once_even_over_two_processes(tmp_path: Path) -> None:
    played = [record.trajectory for record in cases.trainer(cases.tiny(method="sft"), tmp_path).river.draw(0).records]
    plays = []

    def play() -> list[Trajectory]:
        plays.append(1)
        return played

    pool = Pool("fresh", 0, 1, tmp_path / "pool", play)
    first = [pool.draw(2 * step, 2) for step in range(3)]
    again = Pool("fresh", 0, 1, tmp_path / "pool", lambda: pytest.fail("played again"))
    assert [again.draw(2 * step, 2) for step in range(3)] == first
    assert plays == [1]


def test_the_episodes_of_one_task_are_drawn_together() -> None:
    pool = Pool("fresh", 5, 3, None, lambda: episodes(12, failed=(4,), per_task=3))
    groups = [tuple(numbers(pool.draw(step, 1))) for step in range(4)]
    assert sorted(groups) == [(0, 1, 2), (3, 5), (6, 7, 8), (9, 10, 11)]
    assert numbers(pool.draw(0, 2)) == [i for group in groups[:2] for i in group]
