"""Invariant 9: bad actions are observations, infrastructure failures are typed, one bad episode never kills a run."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from rollout_ladder import CLIMB, LADDER, ROOMY, assignments, chat, play, student

from agentopd.env import TextSpace
from agentopd.errors import ConfigError, EnvError, PolicyError
from agentopd.isolation.session import Session
from agentopd.rollout import Assignment, Request, Rollout, ScriptedPolicy, collect, rollout_metrics
from agentopd.rollout.collect import too_many_failures
from agentopd.tooling import call
from agentopd.types import Failure, Task

# A bad action is an observation.


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<tool_call>\n{not json\n</tool_call>", "malformed_call"),
        (call("fly"), "unknown_tool"),
        (call("climb", steps="many"), "bad_arguments"),
        (call("jump"), "tool_crash"),
        (call("rest"), "tool_timeout"),
        ("I would rather talk.", "no_call"),
    ],
)
def test_invariant_9_a_bad_action_is_an_observation(text: str, kind: str) -> None:
    trajectory = play(text, CLIMB)
    assert trajectory.failure is None
    assert len(trajectory.turns) == 2
    first = trajectory.turns[0]
    assert kind in first.errors
    assert first.observations[0]["content"]
    assert first.drift == "clean"
    assert rollout_metrics([trajectory])[f"errors/{kind}"] == 1.0


def test_invariant_9_an_empty_generation_is_an_observation() -> None:
    trajectory = play("", CLIMB)
    assert "empty" in trajectory.turns[0].errors
    assert trajectory.turns[0].finish == "stop"
    assert trajectory.failure is None
    assert rollout_metrics([trajectory])["errors/empty"] == 1.0


def test_invariant_9_a_generation_cut_at_the_limit_is_an_observation() -> None:
    settings = Rollout(max_turns=2, max_new_tokens=4, max_length=4000)
    trajectory = play("one two three four five six seven", "x", settings=settings)
    first = trajectory.turns[0]
    assert first.finish == "length"
    assert "cut" in first.errors
    assert first.stop - first.start == 4
    assert first.drift == "realigned"  # the missing end of turn enters as context
    metrics = rollout_metrics([trajectory])
    assert metrics["cut"] == 0.5
    assert metrics["drift/realigned"] == 1.0


# An infrastructure failure is a typed failure of the episode, and the run goes on.


class Telling(gymnasium.Env[str, str]):
    """Says what it is told, and in ``info`` what ``tell`` makes of that."""

    observation_space = action_space = TextSpace()

    def __init__(self, tell: Callable[[str], dict[str, Any]]) -> None:
        self.tell = tell

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "start", self.tell("start")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return action, 0.0, False, False, self.tell(action)


def telling(tell: Callable[[str], dict[str, Any]]) -> Session:
    gymnasium.register("me/Telling-v0", entry_point=lambda **kwargs: Telling(tell))
    return Session(Task("me/Telling-v0", 0), advice=False, needs_expert=False)


def test_what_an_environment_said_stays_when_it_uses_its_message_again() -> None:
    message = {"role": "user", "content": ""}

    def tell(text: str) -> dict[str, Any]:
        message["content"] = text
        return {"messages": [message]}

    session = telling(tell)
    said = [session.reset(), session.step("one"), session.step("two")]
    assert [observed.messages[0]["content"] for observed in said] == ["start", "one", "two"]


def test_what_an_environment_said_becomes_plain_well_formed_data() -> None:
    def tell(text: str) -> dict[str, Any]:
        message = {"role": np.str_("user"), "content": np.str_(text), "score": np.int64(3)}
        return {"messages": [message], "errors": [np.str_("odd \ud800")]}

    session = telling(tell)
    session.reset()
    observed = session.step("half \ud800")
    assert repr(observed.messages) == repr(({"role": "user", "content": "half \ufffd", "score": 3},))
    assert repr(observed.errors) == repr(("odd \ufffd",))


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"messages": [42]}, r"info\['messages'\] must be a list of messages, .* got \[42\]"),
        ({"messages": "hello"}, r"got 'hello'"),
        ({"messages": [{"role": "critic", "content": "hm"}]}, r"a role of user, tool"),
        ({"messages": [{"role": "user", "content": None}]}, r"text as content"),
        (
            {"messages": [{"role": "user", "content": "hello", "of": object()}]},
            r"info\['messages'\]: 'of' is no plain data",
        ),
        ({"errors": "oops"}, r"info\['errors'\] must be a list of texts, got 'oops'"),
    ],
)
def test_invariant_9_garbage_in_info_fails_its_episode(info: dict[str, Any], message: str) -> None:
    session = telling(lambda text: info if text == "hello" else {})
    session.reset()
    with pytest.raises(EnvError, match=message):
        session.step("hello")


class Shouting(gymnasium.ObservationWrapper[str, str, str]):
    """Changes the observation and forgets the messages in ``info``."""

    def observation(self, observation: str) -> str:
        return observation.upper()


def test_invariant_9_an_observation_that_contradicts_its_messages_fails_its_episode() -> None:
    gymnasium.register(
        "me/Shouting-v0", entry_point=lambda **kwargs: Shouting(gymnasium.make("agentopd.envs:agentopd/Checkout-v0"))
    )
    session = Session(Task("me/Shouting-v0", 0), advice=False, needs_expert=False)
    with pytest.raises(EnvError, match=r"the observation and info\['messages'\] differ: a wrapper"):
        session.reset()


def _placed(failure: Failure | None) -> tuple[str, str, str]:
    assert failure is not None
    return failure.boundary, failure.kind, re.sub(r"line \d+", "line N", failure.message)


def test_invariant_9_an_environment_that_raises_in_reset_fails_its_episode() -> None:
    trajectory = play(CLIMB, trouble="reset")
    assert _placed(trajectory.failure) == ("env", "raised", "RuntimeError: no ladder (rollout_ladder.py, line N)")
    assert trajectory.outcome.stop == "failed"
    assert (trajectory.turns, trajectory.segments) == ((), ())
    assert rollout_metrics([trajectory])["failures/raised"] == 1.0


def test_invariant_9_an_environment_that_raises_in_step_keeps_the_turns_so_far() -> None:
    trajectory = play(CLIMB, "Hello.", trouble="step")
    assert _placed(trajectory.failure) == ("env", "raised", "KeyError: 'step' (rollout_ladder.py, line N)")
    assert [turn.text for turn in trajectory.turns] == [CLIMB, "Hello."]
    assert trajectory.turns[1].observations == ()
    assert not trajectory.outcome.success


def test_invariant_9_a_hanging_environment_fails_by_time_out_while_others_go_on() -> None:
    settings = Rollout(max_turns=4, time_limit=0.3, max_length=4000, max_new_tokens=100)
    hanging, *others = assignments(5)
    hanging = Assignment(Task(LADDER, 0, {"trouble": "hang"}), hanging.key, "student", 0, "fresh")
    begin = time.monotonic()
    trajectories = collect([hanging, *others], student(*[CLIMB] * 4), chat(), settings)
    assert time.monotonic() - begin < 0.9
    failure = trajectories[0].failure
    assert failure is not None
    assert (failure.boundary, failure.kind) == ("env", "timeout")
    assert all(t.failure is None and t.outcome.success for t in trajectories[1:])
    assert rollout_metrics(trajectories)["failures/timeout"] == pytest.approx(1 / 5)


def test_invariant_9_past_a_share_of_failures_the_run_stops_with_the_reason() -> None:
    mixed = [*assignments(4), *assignments(2, trouble="reset")]
    with pytest.raises(EnvError, match=r"2 of 6 episodes failed.*max_failures=0\.2.*RuntimeError: no ladder"):
        collect(mixed, student(*[CLIMB] * 5), chat(), ROOMY)
    tolerant = ROOMY.model_copy(update={"max_failures": 0.5})
    assert len(collect(mixed, student(*[CLIMB] * 5), chat(), tolerant)) == 6


@pytest.mark.parametrize(
    ("failed", "begun", "last", "too_many"),
    [(1, 1, True, False), (2, 4, True, True), (2, 4, False, False), (4, 16, False, True), (3, 16, True, False)],
)
def test_too_many_failures_are_more_than_one_and_than_a_share_of_enough(
    failed: int, begun: int, last: bool, too_many: bool
) -> None:
    assert bool(too_many_failures(failed, begun, 0.2, last)) == too_many


def test_a_broken_policy_is_not_one_bad_episode() -> None:
    def broken(request: Request) -> Sequence[int]:
        raise RuntimeError("out of memory")

    with pytest.raises(PolicyError, match="'student' failed: RuntimeError: out of memory"):
        collect(assignments(), {"student": ScriptedPolicy(broken)}, chat(), ROOMY)


def test_an_actor_without_a_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no policy acts as 'studnet'.*did you mean 'student'"):
        collect(assignments(actor="studnet"), student(CLIMB), chat(), ROOMY)
