"""Episodes in a thread of their own: what they have in common with those of ``collect``, and what changes between their turns."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from frail_envs import FRAIL, GO
from rollout_ladder import CLIMB, LADDER, PLAIN, ROOMY, assignments, chat, say, student
from transformers import PreTrainedModel

from agentopd.acting import Takeover
from agentopd.errors import ConfigError, EnvError, PolicyError
from agentopd.models import NewModel, new_model
from agentopd.rollout import (
    Assignment,
    Generation,
    Policy,
    Request,
    Rollout,
    ScriptedPolicy,
    TransformersPolicy,
    collect,
)
from agentopd.rollout.stream import Lot, Stream
from agentopd.types import Trajectory


@contextmanager
def running(policies: dict[str, Policy], settings: Rollout = ROOMY, restart: bool = False) -> Iterator[Stream]:
    stream = Stream(policies, chat(), settings, restart)
    try:
        yield stream
    finally:
        stream.close()


def timeless(trajectory: Trajectory) -> Trajectory:
    """Without what depends on who else was there."""
    turns = (replace(turn, seconds_policy=0.0, seconds_env=0.0, prefilled=0, outcomes=()) for turn in trajectory.turns)
    return replace(trajectory, turns=tuple(turns))


def assert_same(found: Sequence[Trajectory], usual: Sequence[Trajectory]) -> None:
    assert [timeless(one) for one in found] == [timeless(one) for one in usual]


def mixed(*actors: str) -> list[Assignment]:
    several = [*assignments(5, env=LADDER), *assignments(4, env=PLAIN), *assignments(3, actor=actors[-1])]
    return [replace(one, key=replace(one.key, index=i)) for i, one in enumerate(several)]


def test_scripted_episodes_are_those_of_collect() -> None:
    settings = ROOMY.model_copy(update={"concurrency": 4})
    asked, texts = mixed("student", "expert"), [CLIMB] * 8
    with running(student(*texts), settings) as stream:
        found = stream.submit(Lot(asked, settings, advice=True)).over.result(60)
    assert_same(found, collect(asked, student(*texts), chat(), settings, advice=True))


def test_environments_live_in_processes_of_their_own_too() -> None:
    settings = ROOMY.model_copy(
        update={"isolation": "process", "concurrency": 3, "time_limit": 60.0, "max_failures": 1.0}
    )
    asked = [*assignments(5, env=FRAIL), *assignments(1, env=FRAIL, trouble="exit")]
    with running(student(*[GO] * 8), settings) as stream:
        found = stream.submit(Lot(asked, settings)).over.result(60)
    assert_same(found, collect(asked, student(*[GO] * 8), chat(), settings))
    assert [one.failure is not None for one in found] == [False] * 5 + [True]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_models_episodes_are_those_of_collect_up_to_rounding(temperature: float) -> None:
    settings = ROOMY.model_copy(update={"max_new_tokens": 24, "max_turns": 4, "temperature": temperature})
    new = NewModel(hidden_size=32, layers=2, heads=2, intermediate_size=48, max_positions=4000, vocab_size=600)
    model, asked = new_model(new, chat().tokenizer, seed=3), mixed("student")
    with running({"student": TransformersPolicy(model, chat().end_of_turn, settings)}, settings) as stream:
        lots = [stream.submit(Lot(part, settings)) for part in (asked[:7], asked[7:])]
        found = [one for lot in lots for one in lot.over.result(60)]
    usual = collect(asked, {"student": TransformersPolicy(model, chat().end_of_turn, settings)}, chat(), settings)
    assert sum(len(one.turns) for one in usual) > 20
    for mine, theirs in zip(found, usual, strict=True):
        for one, other in zip(mine.segments, theirs.segments, strict=True):
            assert one.tokens_T.tolist() == other.tokens_T.tolist()
            assert one.logprob_T == pytest.approx(other.logprob_T, abs=1e-4, nan_ok=True)


def test_a_turn_that_is_taken_back_is_played_again() -> None:
    asked = [replace(one, acting=Takeover(by="expert", mistake="error")) for one in assignments(4)]
    texts = ["<tool_call>broken", *[CLIMB] * 8]
    with running(student(*texts)) as stream:
        found = stream.submit(Lot(asked, ROOMY)).over.result(60)
    assert_same(found, collect(asked, student(*texts), chat(), ROOMY))
    assert all(one.turns[0].actor == "expert" for one in found)


def test_a_slow_environment_holds_up_nobody_else() -> None:
    [slow] = assignments(1, trouble="slow")
    order: list[int] = []
    with running(student(*[CLIMB] * 8)) as stream:
        asked = [replace(slow, key=replace(slow.key, index=9)), *assignments(6)]
        stream.submit(Lot(asked, ROOMY, on_done=lambda one: order.append(one.key.index))).over.result(60)
    assert order[-1] == 9
    assert sorted(order) == [0, 1, 2, 3, 4, 5, 9]


class Climber(ScriptedPolicy):
    """Climbs; a turn ends once the gate is open."""

    def __init__(self, open_: bool = True) -> None:
        super().__init__(lambda request: say(CLIMB))
        self.gate, self.asked = threading.Event(), threading.Event()
        if open_:
            self.gate.set()

    def act(self, requests: Sequence[Request]) -> list[Generation]:
        self.asked.set()
        assert self.gate.wait(20)
        return super().act(requests)

    def becomes(self, version: int) -> Callable[[], None]:
        return lambda: self.update(cast(PreTrainedModel, None), version)


def high(count: int, **kwargs: Any) -> list[Assignment]:
    """Ladders of one height, 4."""
    return [replace(one, task=replace(one.task, seed=4)) for one in assignments(count, **kwargs)]


def versions(found: Sequence[Trajectory]) -> list[list[int]]:
    return [[turn.policy_version for turn in one.turns] for one in found]


def test_episodes_begin_once_the_student_has_the_version_that_they_ask_for() -> None:
    policy = Climber()
    with running({"student": policy}) as stream:
        now, later = stream.submit(Lot(assignments(3), ROOMY)), stream.submit(Lot(assignments(3), ROOMY, least=2))
        now.over.result(20)
        stream.change(policy.becomes(1))
        time.sleep(0.05)
        assert later.begun == 0
        stream.change(policy.becomes(2))
        found = later.over.result(20)
    assert {version for one in versions(found) for version in one} == {2}


def test_episodes_go_on_after_a_change_and_every_turn_has_its_version() -> None:
    policy = Climber(open_=False)
    with running({"student": policy}) as stream:
        lot = stream.submit(Lot(high(4), ROOMY))
        assert policy.asked.wait(20)
        threading.Timer(0.05, policy.gate.set).start()
        stream.change(policy.becomes(1))  # the turns under way end first
        found = lot.over.result(20)
        assert stream.restarted == 0
    assert all(one == [0] * one.count(0) + [1] * one.count(1) for one in versions(found))
    assert any(one[0] == 0 and one[-1] == 1 for one in versions(found)), "no episode lived through the change"


def test_where_it_is_chosen_episodes_in_which_somebody_has_acted_begin_anew() -> None:
    policy = Climber()
    with running({"student": policy}, restart=True) as stream:
        lot = stream.submit(Lot(high(2, trouble="slow"), ROOMY))
        while not all(one.slot.episode.turns for one in [*stream._living.values()]) or not stream._living:
            time.sleep(0.01)
        stream.change(policy.becomes(1))
        found = lot.over.result(60)
        assert stream.restarted == 2
    assert {version for one in versions(found) for version in one} == {1}
    assert [one.key.index for one in found] == [0, 1]


def test_while_it_is_paused_no_turn_is_begun() -> None:
    policy = Climber()
    with running({"student": policy}) as stream:
        with stream.paused():
            lot = stream.submit(Lot(assignments(3), ROOMY))
            time.sleep(0.05)
            assert not policy.asked.is_set()
        assert len(lot.over.result(20)) == 3


def test_a_policy_that_fails_is_told_to_whoever_waits_and_to_whoever_comes_later() -> None:
    class Broken(ScriptedPolicy):
        def act(self, requests: Sequence[Request]) -> list[Generation]:
            raise ValueError("out of order")

    with running({"student": Broken()}) as stream:
        lot = stream.submit(Lot(assignments(2), ROOMY))
        with pytest.raises(PolicyError, match="the policy of 'student' failed: ValueError: out of order"):
            lot.over.result(20)
        with pytest.raises(PolicyError, match="out of order"):
            stream.change(lambda: None)
        with pytest.raises(PolicyError, match="out of order"), stream.paused():
            pass
        with pytest.raises(PolicyError, match="out of order"):
            stream.submit(Lot(assignments(2), ROOMY))


def test_too_many_failures_of_a_lot_end_the_stream() -> None:
    with running(student(*[CLIMB] * 8)) as stream:
        lot = stream.submit(Lot(assignments(4, trouble="reset"), ROOMY))
        with pytest.raises(EnvError, match="4 of 4 episodes failed"):
            lot.over.result(20)


def test_what_fails_in_a_change_is_raised_where_it_was_asked_for() -> None:
    def breaks() -> None:
        raise ZeroDivisionError

    with running(student(CLIMB)) as stream, pytest.raises(ZeroDivisionError):
        stream.change(breaks)


def test_an_actor_without_a_policy_is_refused_at_once() -> None:
    with running({}) as stream, pytest.raises(ConfigError, match="no policy acts as 'student'"):
        stream.submit(Lot(assignments(1), ROOMY))


def test_closing_lets_go_what_is_not_over() -> None:
    policy = Climber()
    with running({"student": policy}) as stream:
        lot = stream.submit(Lot(assignments(2, trouble="slow"), ROOMY))
        assert policy.asked.wait(20)
    with pytest.raises(RuntimeError, match="closed before this was over"):
        lot.over.result(5)
    with pytest.raises(RuntimeError, match="the stream is closed"):
        stream.submit(Lot(assignments(1), ROOMY))
    assert not stream._living


def test_an_empty_lot_is_over_at_once() -> None:
    with running(student(CLIMB)) as stream:
        assert stream.submit(Lot([], ROOMY)).over.result(1) == []


def test_time_is_told_by_what_it_went_into() -> None:
    with running(student(*[CLIMB] * 8)) as stream:
        stream.submit(Lot(assignments(2, trouble="slow"), ROOMY)).over.result(60)
        spent = stream.spent
    assert 0.1 < spent.env <= spent.whole
    assert spent.engine + spent.env + spent.idle <= spent.whole + 0.01
