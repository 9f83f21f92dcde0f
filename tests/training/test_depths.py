"""Means by turn, by hand."""

from dataclasses import replace

import numpy as np

from agentopd.objective import Rows
from agentopd.training.loop.depths import depth_metrics
from agentopd.types import CORRECTED, Key, Outcome, Record, Segment, Task, Trajectory, Turn


def _episode(sizes: list[int], bad: set[int]) -> Trajectory:
    """``sizes[s]`` action tokens in turn s, one context token before each; turns in ``bad`` had a bad action."""
    turn_T = np.array([t for s, size in enumerate(sizes) for t in [-1] + [s] * size], np.int32)
    acted_T, zeros_T = turn_T >= 0, np.zeros(len(turn_T), np.float32)
    segment = Segment(zeros_T.astype(np.int32), turn_T, np.where(acted_T, 0, -1).astype(np.int32), acted_T, zeros_T)
    turns, start = [], 0
    for s, size in enumerate(sizes):
        kinds = ("cut", "no_call") if s in bad else ()
        turns.append(Turn(s, "student", 0, start + 1, start + 1 + size, "", "", errors=kinds))
        start += 1 + size
    return Trajectory(Key("r", 0, 0), Task("a/A-v0", 0), ("student",), (segment,), tuple(turns), Outcome(0, False, "failed"))  # fmt: skip


def _found(*episodes: Trajectory, **signals: list[float]) -> dict[str, float]:
    rows = Rows.of([Record(replace(one, key=Key("r", 0, i))) for i, one in enumerate(episodes)])
    columns = {name.replace("__", "/"): np.array(column, np.float32) for name, column in signals.items()}
    return depth_metrics(episodes, rows, columns)


def test_turns_and_tokens_by_hand() -> None:
    nan = float("nan")
    found = _found(
        _episode([2, 1], bad={0}),
        _episode([4], bad=set()),
        loss__divergence=[1.0, 2.0, 7.0, 3.0, 4.0, nan, nan],
        student_entropy=[0.5, 0.5, 0.25, nan, nan, nan, 2.0],
        teacher_entropy__t=[nan] * 7,
        loss__coef=[1.0] * 7,
        current_logprob=[-1.0] * 7,
    )
    assert found == {
        "depth/tokens/1": 3.0,
        "depth/tokens/2": 1.0,
        "depth/errors/1": 0.5,
        "depth/errors/2": 0.0,
        "depth/loss/divergence/1": 2.5,
        "depth/loss/divergence/2": 7.0,
        "depth/student_entropy/1": 1.0,
        "depth/student_entropy/2": 0.25,
    }


def test_turns_past_the_eighth_are_one() -> None:
    found = _found(_episode([1] * 8 + [3, 5], bad={9}), loss__nll=[0.0] * 8 + [2.0] * 3 + [6.0] * 5)
    assert [name for name in found if name.startswith("depth/tokens/")][-2:] == ["depth/tokens/8", "depth/tokens/9+"]
    assert (found["depth/tokens/9+"], found["depth/errors/9+"]) == (4.0, 0.5)
    assert found["depth/loss/nll/9+"] == (3 * 2 + 5 * 6) / 8


def test_episodes_of_a_frozen_source_say_nothing_of_what_is_played_now() -> None:
    again = replace(_episode([2], bad=set()), origin=Key("old", 0, 0))
    found = _found(again, loss__divergence=[1.0, 3.0])
    assert found == {"depth/loss/divergence/1": 2.0}


def test_corrected_actions_are_no_turns_that_were_played() -> None:
    episodes = [_episode([1], bad=set()), _episode([1], bad=set())]
    rows = Rows.of([Record(replace(one, key=Key("r", 0, i))) for i, one in enumerate(episodes)])
    rows = replace(rows, source_A=np.array(["fresh", CORRECTED]))
    found = depth_metrics(episodes, rows, {"student_entropy": np.array([1.5, 50.0], np.float32)})
    assert found["depth/student_entropy/1"] == 1.5
