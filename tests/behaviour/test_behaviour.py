"""What a student does, counted by hand."""

import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentopd import records
from agentopd.behaviour import behaviour
from agentopd.behaviour.group import Group
from agentopd.behaviour.telling import tables, to_dict
from agentopd.errors import RecordError
from agentopd.evaluation import wilson
from agentopd.filters import Filter
from agentopd.records import RecordWriter
from agentopd.tooling import call
from agentopd.tooling.action import parse_action, render_action
from agentopd.types import (
    CONTEXT,
    Annotation,
    Block,
    CallOutcome,
    Key,
    Outcome,
    Record,
    Sampled,
    Segment,
    Sparse,
    Task,
    Trajectory,
    Turn,
)

A, B = call("a", x=1), call("b")
NAN = float("nan")


def both(*actions: str) -> str:
    return render_action("", [one for action in actions for one in parse_action(action).calls])


def episode(*actions: str, index: int = 0, step: int = 0, actor: str = "student", **more: Any) -> Trajectory:
    """An episode whose turns have two tokens each, behind one of context: ids 10, 11, drawn with probabilities 1/2 and 1/4."""
    turns, size = [], 3 * len(actions)
    for number, action in enumerate(actions):
        start = 3 * number + 1
        calls = parse_action(action).calls
        turns.append(Turn(number, actor, 0, start, start + 2, action, action, calls))
    n = np.arange(size)
    acted = n % 3 > 0
    segment = Segment(
        np.where(acted, 9 + n % 3, 5).astype(np.int32),
        np.where(acted, n // 3, -1).astype(np.int32),
        np.where(acted, 0, -1).astype(np.int32),
        acted,
        np.where(n % 3 == 1, math.log(0.5), np.where(n % 3 == 2, math.log(0.25), 0.0)).astype(np.float32),
    )
    made = Trajectory(
        Key("run", step, index),
        Task("toy/A-v0", 0),
        (actor,),
        (segment,),
        tuple(turns),
        Outcome(1.0, True, "terminated"),
    )
    return replace(made, **more)


def said(
    trajectory: Trajectory, teacher: str, corrected: tuple[str | None, ...] = (), q: float = 0.5, **more: Any
) -> Annotation:
    """A teacher that gives every token the probability ``q``."""
    rows = np.flatnonzero(trajectory.segments[0].turn_T >= 0).astype(np.int32)
    count, turns = len(rows), len(trajectory.turns)
    made = Annotation(
        teacher=teacher,
        segment_N=np.zeros(count, np.int32),
        index_N=rows,
        block=more.pop("block", Sampled()),
        taken_logprob_N=np.full(count, math.log(q), np.float32),
        entropy_N=np.full(count, NAN, np.float32),
        reward_S=np.full(turns, NAN, np.float32),
        skip_S=np.zeros(turns, np.bool_),
        corrected_S=corrected,
    )
    return replace(made, **more)


def counted(*kept: Record, **signals: Any) -> Group:
    group = Group()
    for record in kept:
        group.add(record, signals, None)
    return group


def test_calls_are_held_against_those_of_a_teacher() -> None:
    # made: a(1); a(2), b; nothing; b    wanted: a(1); a(1); b; nothing
    made = episode(A, both(call("a", x=2), B), "Hm.", B)
    against = counted(Record(made, (said(made, "judge", (A, A, B, "Stop.")),))).against["judge"]
    assert (against.turns, against.made, against.wanted) == (4, 4, 3)
    assert (against.named, against.exact) == (2, 1)
    assert (against.precision.value, against.recall.value) == (2 / 4, 2 / 3)
    assert (against.exact_precision.value, against.exact_recall.value) == (1 / 4, 1 / 3)
    assert (against.over_calling.value, against.excess) == (2 / 4, 2)  # the second turn and the last


def test_calls_count_as_often_as_they_are_made() -> None:
    made = episode(both(A, A, A))
    against = counted(Record(made, (said(made, "judge", (both(A, A),)),))).against["judge"]
    assert (against.exact, against.made, against.wanted, against.excess) == (2, 3, 2, 1)


def test_the_order_of_arguments_does_not_matter() -> None:
    made = episode('<tool_call>{"name": "a", "arguments": {"y": 2, "x": 1}}</tool_call>')
    assert counted(Record(made, (said(made, "judge", (call("a", x=1, y=2),)),))).against["judge"].exact == 1


def test_a_teacher_that_says_what_the_expert_advised_counts_once() -> None:
    made = episode(A, B)
    advised = replace(made, turns=tuple(replace(turn, advice=A) for turn in made.turns))
    assert counted(Record(advised, (said(advised, "expert", (A, A)),))).against["expert"].turns == 2


def test_advice_is_the_experts_word_and_skipped_or_own_turns_have_none() -> None:
    made = episode(A, B, A)
    turns = (replace(made.turns[0], advice=A), replace(made.turns[1], advice=A), made.turns[2])
    record = Record(
        replace(made, turns=turns), (said(made, "judge", (A, None, B), skip_S=np.array([True, False, False])),)
    )
    against = counted(record).against
    assert (against["expert"].turns, against["expert"].exact) == (2, 1)
    assert (against["judge"].turns, against["judge"].exact) == (1, 0)
    experts = replace(made, turns=tuple(replace(turn, actor="expert", advice=A) for turn in made.turns))
    assert counted(Record(experts)).against == {}


def test_repeated_actions() -> None:
    group = counted(Record(episode(A, A, B, A)), Record(episode(B)))
    assert (group.in_a_row.hits, group.in_a_row.n) == (1, 3)
    assert (group.again.hits, group.again.n) == (2, 3)


def test_bad_actions_by_kind_and_depth() -> None:
    made = episode(A, B, A)
    turns = (
        made.turns[0],
        replace(made.turns[1], errors=("bad_arguments", "bad_arguments")),
        replace(made.turns[2], errors=("cut", "no_call")),
    )
    group = counted(Record(replace(made, turns=turns)), Record(episode(A)))
    assert group.errors == {"bad_arguments": 1, "cut": 1, "no_call": 1}  # turns, however often in each
    assert (group.bad.hits, group.bad.n) == (2, 4)
    assert [(group.depths[turn].turns, group.depths[turn].bad) for turn in (0, 1, 2)] == [(2, 0), (1, 1), (1, 1)]


def test_kl_is_of_tokens_that_the_student_drew() -> None:
    made = episode(A, B)
    group = counted(Record(made, (said(made, "teacher", q=0.5),)))
    # log p - log q: 0 and log 1/2 in each turn
    assert group.teachers["teacher"].kl.value == pytest.approx(math.log(0.5) / 2)
    assert group.teachers["teacher"].kl.n == 4
    assert group.depths[1].kl["teacher"].value == pytest.approx(math.log(0.5) / 2)
    experts = episode(A, actor="expert")
    assert counted(Record(experts, (said(experts, "teacher"),))).teachers["teacher"].kl.n == 0


def test_tokens_that_nobody_drew_have_no_kl() -> None:
    made = episode(A, B)
    [segment] = made.segments
    undrawn = np.where(segment.turn_T == 0, np.nan, segment.logprob_T).astype(np.float32)
    made = replace(made, segments=(replace(segment, logprob_T=undrawn),))
    assert counted(Record(made, (said(made, "teacher"),))).teachers["teacher"].kl.n == 2


def sparse(*rows: list[int], of: Any, tail: float) -> Block:
    ids = np.array(rows, np.int32)
    return Sparse(ids, np.zeros(ids.shape, np.float32), np.full(len(rows), math.log(tail), np.float32), of)


def test_the_teachers_likeliest_and_the_students() -> None:
    made = episode(A)  # tokens 10 and 11
    for block, in_top, overlap in (
        (sparse([10, 7], [7, 8], of="teacher", tail=0.25), (1, 2), (0, 0)),
        (sparse([10, 7, -1, 3], [7, 11, -1, -1], of="union", tail=0.25), (2, 2), (3, 4)),
        (sparse([10, 7], [7, 8], of="student", tail=0.25), (0, 0), (0, 0)),
    ):
        taught = counted(Record(made, (said(made, "teacher", block=block),))).teachers["teacher"]
        assert (taught.in_top.hits, taught.in_top.n) == in_top
        assert (taught.overlap.hits, taught.overlap.n) == overlap
        assert taught.mass.value == pytest.approx(0.75)
        assert taught.k == {2}


def test_outcomes_of_tools() -> None:
    made = episode(A)
    outcomes = (
        CallOutcome("a", "ok", 1.0),
        CallOutcome("a", "tool_timeout", 5.0, cut=True),
        CallOutcome("b", "ok", 0.5),
    )
    tools = counted(Record(replace(made, turns=(replace(made.turns[0], outcomes=outcomes),)))).tools
    assert tools["a"].outcomes == {"ok": 1, "tool_timeout": 1}
    assert (tools["a"].seconds.value, tools["a"].seconds.most, tools["a"].cut, tools["b"].calls) == (3.0, 5.0, 1, 1)


def closed_for_it(thought: Trajectory) -> Trajectory:
    """The episode, the first token of its thought drawn by nobody, as a budget that is used up leaves it."""
    [segment] = thought.segments
    turn_T = segment.turn_T.copy()
    turn_T[thought.turns[0].start] = CONTEXT
    return replace(thought, segments=(replace(segment, turn_T=turn_T),))


def test_episodes_and_their_lengths() -> None:
    lost = episode(A, B, index=1, outcome=Outcome(0.0, False, "turn_limit"))
    thought = replace(lost, turns=(replace(lost.turns[0], thinking=1), lost.turns[1]))
    group = counted(Record(episode(A)), Record(thought))
    assert (group.episodes, group.success.hits, group.reward.value) == (2, 1, 0.5)
    assert (group.turns.value, group.turns.most, group.tokens.value, group.tokens.most) == (1.5, 2, 3.0, 4)
    assert (group.thinking.hits, group.thinking.n) == (1, 6)
    cut = closed_for_it(thought)
    assert [(one.thinking.hits, one.thinking.n) for one in [counted(Record(cut))]] == [(0, 3)]
    assert group.stops == {"terminated": 1, "turn_limit": 1}
    assert group.calls.value == 1.0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two steps; the second has signals."""
    writer, second = RecordWriter(tmp_path / "run"), episode(A, A, step=1)
    first = episode(A, B, index=0), episode(B, index=1, family="f", outcome=Outcome(0.0, False, "turn_limit"))
    writer.write(0, [Record(one, (said(one, "teacher"),)) for one in first])
    writer.write(1, [Record(second, (said(second, "teacher"),))])
    columns = {
        "trajectory": np.array([str(second.key)] * 4), "segment": np.zeros(4, np.int32), "index": np.array([1, 2, 4, 5]),
        "turn": np.array([0, 0, 1, 1]), "loss/divergence": np.array([1.0, 3.0, 5.0, NAN]),
    }  # fmt: skip
    writer.write_signals(1, columns)
    return tmp_path / "run"


def test_signals_give_the_divergence_by_turn(run: Path) -> None:
    found = behaviour(records.open(run))
    assert found.signals
    assert [found.whole.depths[turn].divergence["loss"].value for turn in (0, 1)] == [2.0, 5.0]


def test_groups(run: Path) -> None:
    assert {name: one.episodes for name, one in behaviour(records.open(run), by="step").groups.items()} == {
        "0": 2,
        "1": 1,
    }
    families = behaviour(records.open(run), by="family").groups
    assert {name: one.episodes for name, one in families.items()} == {"f": 1, "toy/A-v0": 2}
    assert behaviour(records.open(run), by="version").groups["0"].episodes == 3
    assert behaviour(records.open(run), Filter(success=False)).whole.episodes == 1


def test_one_teacher_alone(run: Path) -> None:
    assert behaviour(records.open(run), teacher="expert").whole.teachers == {}
    with pytest.raises(RecordError, match="teacher='judge' annotated none of these records; those who did: teacher"):
        behaviour(records.open(run), teacher="judge")
    with pytest.raises(RecordError, match="none of its 3 records is meant; loosen the filter"):
        behaviour(records.open(run), Filter(env=("toy/B-v0",)))


def test_json_has_every_number_and_its_interval(run: Path) -> None:
    told = json.loads(json.dumps(to_dict(behaviour(records.open(run), by="step")), allow_nan=False))
    interval = wilson(2, 3)
    assert told["all"]["success"] == {"share": 2 / 3, "hits": 2, "n": 3, "low": interval.low, "high": interval.high}
    assert told["all"]["repeated_in_a_row"]["share"] == 0.5
    assert told["groups"]["1"]["depths"][1] == {
        "turn": 1, "turns": 1, "bad_turns": {"share": 0.0, "hits": 0, "n": 1, "low": 0.0, "high": wilson(0, 1).high},
        "kl": {"teacher": pytest.approx(math.log(0.5) / 2)}, "divergence": {"loss": 5.0},
    }  # fmt: skip
    assert len(told["missing"]) == 4


def test_tables_hold_what_was_counted(run: Path) -> None:
    (head, rows), *more = tables(behaviour(records.open(run), by="step"))
    assert head == ("step", "all", "0", "1")
    assert {name: cells for name, *cells in rows}["the same action twice in a row"] == ["50.0%", "0.0%", "100.0%"]
    assert [head[0] for head, _ in more] == ["teacher", "turn"]
    assert all(len(row) == len(head) for head, rows in more for row in rows)


def test_what_is_missing_says_why() -> None:
    made = episode(A)
    block = sparse([10, 7, -1, 3], [7, 11, -1, -1], of="union", tail=0.25)
    turns = (replace(made.turns[0], outcomes=(CallOutcome("a"),)),)
    full = Record(replace(made, turns=turns), (said(made, "teacher", (A,), block=block),))
    from agentopd.behaviour import Behaviour

    assert Behaviour(counted(full), {}, None, signals=True).missing == []
    drawn = replace(full, trajectory=replace(full.trajectory, origin=Key("other", 0, 0)))
    [told_of] = Behaviour(counted(full, drawn, drawn), {}, None, signals=True).missing
    assert "2 of the 3 records were drawn from episodes played before" in told_of
    words = ["agreement", "KL", "divergence", "the token taken", "overlap", "outcomes"]
    told = Behaviour(counted(Record(made)), {}, None, signals=False).missing
    assert [any(one.startswith(word) for one in told) for word in words] == [True] * 6


def peak(folder: Path, steps: int, episodes: int) -> int:
    """The most memory that is held at once while so many steps are counted, in bytes."""
    writer = RecordWriter(folder)
    for step in range(steps):
        made = [episode(A, B, A, index=index, step=step) for index in range(episodes)]
        writer.write(step, [Record(one, (said(one, "teacher", (A, A, B)),)) for one in made])
    tracemalloc.start()
    behaviour(records.open(folder))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    assert peak(tmp_path / "many", 12, 16) < 1.3 * peak(tmp_path / "few", 2, 16)


@pytest.mark.slow
def test_nor_with_thousands(tmp_path: Path) -> None:
    assert peak(tmp_path / "many", 32, 64) < 1.3 * peak(tmp_path / "few", 3, 64)
