"""Rows: one for each action token, with what every teacher said."""

from dataclasses import replace

import numpy as np
import pytest
from objective_cases import START, Saying, annotate, episode, method, record

from agentopd.objective import Rows, prepare
from agentopd.types import Record, ToolCall, Trajectory


def test_every_action_token_once_in_time_order_across_forks() -> None:
    trajectory = episode([2, 1, 3], forks=[1])
    rows = Rows.of([record(trajectory), record(episode([1], index=1))])
    assert rows.turn_A.tolist() == [0, 0, 1, 2, 2, 2, 0]
    assert rows.segment_A.tolist() == [0, 0, 1, 1, 1, 1, 2]
    assert rows.segment_in_record_A.tolist() == [0, 0, 1, 1, 1, 1, 0]
    assert rows.trajectory_A.tolist() == [0] * 6 + [1]
    assert rows.index_A.tolist() == [2, 3, 6, 9, 10, 11, 2]
    assert [int(rows.segments[s].tokens_T[t]) for s, t in zip(rows.segment_A, rows.index_A, strict=True)] == (
        rows.token_A.tolist()
    )
    assert len(set(rows.turn_id_A)) == 4


def calling(trajectory: Trajectory, tools: dict[int, str]) -> Trajectory:
    turns = tuple(
        replace(turn, calls=(ToolCall(tools[turn.index], {}),) if turn.index in tools else ())
        for turn in trajectory.turns
    )
    return replace(trajectory, turns=turns, task=replace(trajectory.task, tags=("easy",)))


def test_the_columns_of_episodes() -> None:
    first = calling(episode([2, 1], forks=[1], reward=0.5, success=True), {1: "lookup"})
    second = episode([1], index=1, task=1, failed=True)
    episodes = Rows.of([record(first, Saying("expert", "none", corrects={0: 3})), record(second)]).episodes
    assert len(episodes) == 2
    assert episodes.key_B.tolist() == ["run/0/0/0", "run/0/1/0"]
    assert episodes.task_B.tolist() == [first.task.id, second.task.id]
    assert episodes.env_B.tolist() == ["Env-v0"] * 2
    assert episodes.tags_B == (("easy",), ())
    assert episodes.reward_B.tolist() == [0.5, 0.0]
    assert episodes.success_B.tolist() == [True, False]
    assert episodes.failed_B.tolist() == [False, True]
    assert episodes.tools_B == (((), ("lookup",)), ((),))
    assert episodes.segments_B.tolist() == [3, 1]


def test_prepare_works_on_columns_alone() -> None:
    """Without records and segments it gives the same numbers, so that processes can put their columns together."""
    said = (Saying(rewards={0: 1.0, 1: 2.0}), Saying("expert", "none", corrects={0: 2}))
    records = [
        record(calling(episode([2, 1, 2], index=i, reward=float(i)), {1: "lookup"}), *said, heads=None)
        for i in range(3)
    ]
    scored = {"kind": "score_function", "baseline": "group_normalised"}
    terms = [
        {"where": {"tool": "lookup", "tag": "easy"}, "weight": "teacher_entropy", "rescale": True},
        {"target": {"kind": "reward"}, "estimator": scored},
        {"target": {"kind": "reward", "name": "teacher"}, "estimator": scored},
        {"target": {"kind": "taken"}, "where": {"source": "corrected", "success": False, "env": "Env-v0"}},
    ]
    objective, rows = method(terms=terms, aggregate="turn", sampler={"per_task": 3}), Rows.of(records)
    bare = replace(rows, records=(), segments=())
    found, expected = prepare(objective, bare, START), prepare(objective, rows, START)
    assert found.metrics == expected.metrics
    for name, column in expected.signals.items():
        np.testing.assert_array_equal(found.signals[name], column)
    assert all(term.coef_A.any() for term in expected.terms)
    np.testing.assert_array_equal(bare.segment_in_record_A, rows.segment_in_record_A)


def test_no_records_no_rows() -> None:
    rows = Rows.of([])
    assert len(rows) == 0
    assert len(rows.turn_id_A) == 0


def test_a_fork_that_marks_the_past_as_action_is_refused() -> None:
    trajectory = episode([2, 1], forks=[1])
    twice = replace(trajectory.segments[1], turn_T=np.array([-1, -1, 0, 0, -1, -1, 1], np.int32))
    with pytest.raises(ValueError, match="run/0/0/0: action tokens are not in time order"):
        Rows.of([record(replace(trajectory, segments=(trajectory.segments[0], twice)))])


def test_skips_rewards_and_silence_of_a_teacher() -> None:
    trajectory = episode([2, 1, 2, 1])
    rows = Rows.of([record(trajectory, Saying(turns=[0, 1, 2], skip=[1], rewards={0: 0.5, 1: 9.0, 2: 2.0}))])
    teacher = rows.teachers["teacher"]
    assert teacher.covered_A.tolist() == [True, True, False, True, True, False]
    assert teacher.entry_A.tolist() == [0, 1, -1, 3, 4, -1]
    assert np.isnan(teacher.taken_logprob_A).tolist() == [False, False, True, False, False, True]
    # the reward stands on the turn's last row; a skip wins over a reward
    assert teacher.reward_A.tolist() == [0.0, 0.5, 0.0, 0.0, 2.0, 0.0]
    # a reward reaches the turns before it, and a turn without one still belongs to the rewarded episode
    assert teacher.rewarded_A.tolist() == [True, True, False, True, True, True]


def test_a_teacher_may_speak_in_several_annotations() -> None:
    trajectory = episode([2, 1, 2])
    both = record(trajectory, Saying(turns=[0]), Saying(kind="sparse", turns=[2]))
    teacher = Rows.of([both]).teachers["teacher"]
    assert teacher.annotation_A.tolist() == [0, 0, -1, 1, 1]
    assert teacher.entry_A.tolist() == [0, 1, -1, 0, 1]


def test_corrected_actions_are_rows_of_their_teacher_and_covered_only_if_named() -> None:
    trajectory = episode([2, 1], forks=[1])
    silent = Saying("expert", "none", corrects={0: 3})
    for named in (False, True):
        loud = Saying("mentor", corrects={1: 2}, on_corrected=named)
        rows = Rows.of([record(trajectory, silent, loud), record(episode([1], index=1))])
        assert rows.source_A.tolist() == ["fresh"] * 3 + ["corrected"] * 5 + ["fresh"]
        assert rows.actor_A.tolist() == ["student"] * 3 + ["expert"] * 3 + ["mentor"] * 2 + ["student"]
        assert rows.turn_A[rows.corrected_A].tolist() == [0, 0, 0, 1, 1]
        assert rows.segment_in_record_A.tolist() == [0, 0, 1, 2, 2, 2, 3, 3, 0]
        # the mentor numbers its own segment after the trajectory's two, whatever the expert added
        assert rows.teachers["mentor"].covered_A.tolist() == [True] * 3 + [False] * 3 + [named] * 2 + [False]
        assert not rows.teachers["expert"].covered_A.any()


def test_an_annotation_of_tokens_that_nobody_produced_is_refused() -> None:
    trajectory = episode([2, 1])
    annotation = annotate(trajectory, Saying())
    beside = replace(annotation, index_N=annotation.index_N - 1)
    with pytest.raises(
        ValueError, match="teacher 'teacher' on trajectory run/0/0/0: 2 of its 3 rows name no action token"
    ):
        Rows.of([Record(trajectory, (beside,))])


def test_a_reward_of_a_turn_without_tokens_goes_to_the_turn_before() -> None:
    rows = Rows.of([record(episode([2, 0, 1]), Saying(kind="none", rewards={1: 3.0}))])
    assert rows.teachers["teacher"].reward_A.tolist() == [0.0, 3.0, 0.0]
    first = Rows.of([record(episode([0, 1]), Saying(kind="none", rewards={0: 3.0}))])
    assert first.teachers["teacher"].reward_A.tolist() == [0.0]


def test_of_two_annotations_of_one_teacher_the_later_one_holds() -> None:
    said = (Saying(rewards={0: 1.0, 1: 1.0, 2: 1.0}), Saying(skip=[1], rewards={0: 2.0, 2: 2.0}))
    teacher = Rows.of([record(episode([2, 1, 2]), *said)]).teachers["teacher"]
    assert teacher.reward_A.tolist() == [0.0, 2.0, 1.0, 0.0, 2.0]
    assert teacher.annotation_A.tolist() == [1, 1, 0, 1, 1]


def test_columns_that_were_not_recomputed_say_who_should_have_asked() -> None:
    with pytest.raises(
        ValueError, match=r"rows\.live was not computed; mark the function that reads it with @needs_live"
    ):
        _ = Rows.of([record(episode([2]))]).live
