"""Means by turn, by hand."""

from dataclasses import replace

import numpy as np

from agentopd.objective import Objective, Rows, TeacherColumns, prepare
from agentopd.settings.clock import Clock
from agentopd.training.loop.depths import depth_metrics, weights_of
from agentopd.training.loop.learner import centres
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


def test_doubts_of_teachers_and_weights_by_hand() -> None:
    """Rows that were not trained on, and what a teacher does not tell, are in no mean."""
    nan = float("nan")
    rows = Rows.of([Record(_episode([2, 2], bad=set()))])
    teacher = TeacherColumns(
        annotation_A=np.zeros(4, np.int64),
        entry_A=np.arange(4),
        taken_logprob_A=np.array([-1.0, -2.0, -np.inf, -1.0]),
        entropy_A=np.array([0.5, 1.5, 1.0, 9.0]),
        statistics={"epistemic": np.array([0.1, 0.3, 0.2, 9.0]), "coverage": np.ones(4)},
        reward_A=np.zeros(4),
        rewarded_A=np.zeros(4, np.bool_),
    )
    silent = replace(teacher, taken_logprob_A=np.full(4, nan), entropy_A=np.full(4, nan), statistics={})
    rows = replace(rows, teachers={"panel": teacher, "silent": silent})
    found = depth_metrics(
        [],
        rows,
        {
            "current_logprob": np.array([-2.0, -2.5, -1.0, nan], np.float32),
            "loss/weight": np.array([1.0, 0.0, 0.5, nan], np.float32),
        },
    )
    assert {name: round(value, 6) for name, value in found.items()} == {
        "depth/loss/weight/1": 0.5,
        "depth/loss/weight/2": 0.5,
        "depth/teacher_entropy/panel/1": 1.0,
        "depth/teacher_entropy/panel/2": 1.0,
        "depth/disagreement/panel/1": 0.75,
        "depth/epistemic/panel/1": 0.2,
        "depth/epistemic/panel/2": 0.2,
    }


def test_weights_are_those_of_the_rows_that_a_term_trains() -> None:
    rows = Rows.of([Record(_episode([1, 2], bad=set()))])
    taken = {"target": {"kind": "taken"}, "where": {"min_turn": 1}}
    halved = {"name": "some", **taken, "weight": {"kind": "gate", "statistic": "depth", "threshold": 1.0}}
    prepared = prepare(Objective.model_validate({"terms": [halved, taken]}), rows, Clock(0, 1))
    (name,), (column,) = zip(*weights_of(prepared).items(), strict=True)
    assert name == "some/weight"
    np.testing.assert_array_equal(column, np.array([np.nan, 0.0, 0.0], np.float32))


def test_corrected_actions_are_no_turns_that_were_played() -> None:
    episodes = [_episode([1], bad=set()), _episode([1], bad=set())]
    rows = Rows.of([Record(replace(one, key=Key("r", 0, i))) for i, one in enumerate(episodes)])
    rows = replace(rows, source_A=np.array(["fresh", CORRECTED]))
    found = depth_metrics(episodes, rows, {"student_entropy": np.array([1.5, 50.0], np.float32)})
    assert found["depth/student_entropy/1"] == 1.5


def test_the_centre_of_a_divergence_by_hand() -> None:
    nan = float("nan")
    episodes = [_episode([2, 1, 1], bad=set()), _episode([4], bad=set()), _episode([1, 2], bad=set())]
    rows = Rows.of([Record(replace(one, key=Key("r", 0, i))) for i, one in enumerate(episodes)])
    # turn 1: mean 1, two episodes, since the second is not trained on; turn 2: mean 2, two; turn 3: mean 6, one
    column = [0.5, 1.5, 3.0, 6.0, nan, nan, nan, nan, 1.0, 1.5, 1.5]
    signals = {"loss/divergence": np.array(column, np.float32), "student_entropy": np.ones(11, np.float32)}
    signals |= {"zero/divergence": np.zeros(11, np.float32), "other/nll": np.ones(11, np.float32)}
    found = centres(rows, signals)
    assert found.keys() == {"train/loss/centre"}
    np.testing.assert_allclose(
        found["train/loss/centre"], (1 * 2 * 1 + 2 * 2 * 2 + 3 * 1 * 6) / (2 * 1 + 2 * 2 + 1 * 6)
    )
