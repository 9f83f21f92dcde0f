"""Episodes against small environments, with scripted policies."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rollout_ladder import CLIMB, LADDER, PLAIN, ROOMY, assignments, chat, play, say, student
from transformers import PreTrainedModel

import agentopd.env as environments
from agentopd.chat import Chat, Extension
from agentopd.config.watched import is_measured
from agentopd.errors import ConfigError, EnvError
from agentopd.rollout import (
    Generation,
    Policy,
    Request,
    Rollout,
    ScriptedPolicy,
    check_first_prompts,
    collect,
    rollout_metrics,
)
from agentopd.tooling import call
from agentopd.types import CONTEXT, CallOutcome, Key, Task, Trajectory

# Tokens.


class Recorder:
    """Passes on to a policy, and keeps what it was asked and what it answered."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.version = policy, 3
        self.seen: dict[int, list[tuple[Request, Generation]]] = {}

    def act(self, requests: Sequence[Request]) -> list[Generation]:
        generations = self.policy.act(requests)
        generations = [Generation(g.tokens, [-0.5 * i for i in range(len(g.tokens))], 7) for g in generations]
        for request, generation in zip(requests, generations, strict=True):
            self.seen.setdefault(request.episode, []).append((request, generation))
        return generations

    def release(self, episodes: Sequence[int]) -> None:
        self.policy.release(episodes)

    def update(self, model: PreTrainedModel, version: int) -> None: ...


def test_invariant_1_token_in_token_out() -> None:
    texts = ["Hmm,  odd   spacing ✓ " + CLIMB, call("fly"), "", CLIMB + CLIMB, "<tool_call>broken"]
    recorder = Recorder(ScriptedPolicy([say(text) for text in texts]))
    settings = ROOMY.model_copy(update={"max_turns": 5})
    trajectories = collect(assignments(4), {"student": recorder}, chat(), settings)
    for episode, trajectory in enumerate(trajectories):
        assert len(trajectory.turns) == len(recorder.seen[episode]) > 1
        for turn, (request, generation) in zip(trajectory.turns, recorder.seen[episode], strict=True):
            segment = trajectory.segments[turn.segment]
            assert segment.tokens_T[turn.start : turn.stop].tolist() == generation.tokens
            assert segment.tokens_T[: turn.start].tolist() == list(request.tokens)
            np.testing.assert_array_equal(segment.logprob_T[turn.start : turn.stop], generation.logprobs)
            assert (segment.turn_T[turn.start : turn.stop] == turn.index).all()
            assert (turn.prefilled, turn.policy_version) == (7, 3)
        for segment in trajectory.segments:
            assert ((segment.turn_T == CONTEXT) == ~segment.trainable_T).all()
            assert (segment.logprob_T[segment.turn_T == CONTEXT] == 0).all()
            assert segment.source == "fresh"


class Rewriting(Chat):
    """As a template that rewrites the past: every extension is a whole new prompt."""

    def extend(self, messages: Any, action: Any, observations: Any, tools: Any = None) -> Extension:
        return Extension(self.prompt([*messages, action.message, *observations], tools), "forked")


def test_a_forked_observation_closes_the_segment_and_opens_the_next() -> None:
    forking = Rewriting(chat().tokenizer)
    recorder = Recorder(ScriptedPolicy([say("Hello."), say(CLIMB)]))
    settings = ROOMY.model_copy(update={"max_turns": 2})
    [trajectory] = collect(assignments(), {"student": recorder}, forking, settings)
    first, second = trajectory.segments
    assert [turn.drift for turn in trajectory.turns] == ["forked", "last"]
    assert [turn.segment for turn in trajectory.turns] == [0, 1]
    assert len(first) == trajectory.turns[0].stop
    assert set(first.turn_T.tolist()) == {CONTEXT, 0}
    assert set(second.turn_T.tolist()) == {CONTEXT, 1}
    assert second.tokens_T[: trajectory.turns[1].start].tolist() == list(recorder.seen[0][1][0].tokens)
    assert rollout_metrics([trajectory])["drift/forked"] == 1.0


def test_an_episode_without_a_start_has_no_opening() -> None:
    [trajectory] = collect(assignments(trouble="reset"), student(), chat(), ROOMY)
    assert trajectory.failure is not None
    assert trajectory.opening == trajectory.tools == ()


def test_invariant_6_trajectories_do_not_depend_on_concurrency_or_order() -> None:
    def draw(request: Request) -> Sequence[int]:
        random = np.random.default_rng(request.seed)
        return say(str(random.choice([CLIMB, call("jump"), "Well.", CLIMB + CLIMB])))

    def run(concurrency: int, order: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        settings = ROOMY.model_copy(update={"concurrency": concurrency})
        made = assignments(8)
        trajectories = collect([made[i] for i in order], {"student": ScriptedPolicy(draw)}, chat(), settings)
        assert [t.key.index for t in trajectories] == list(order)
        return {t.key.index: (t.segments, t.outcome, [turn.text for turn in t.turns]) for t in trajectories}

    alone = run(1, range(8))
    assert run(3, range(8)) == alone
    assert run(8, [5, 2, 7, 0, 1, 6, 3, 4]) == alone
    assert len({str(value) for value in alone.values()}) > 4


def test_invariant_7_replaying_the_actions_gives_the_same_observations_and_rewards() -> None:
    [trajectory] = collect(assignments(), student(call("jump"), CLIMB, "Hello.", CLIMB, CLIMB, CLIMB), chat(), ROOMY)
    env = environments.make(trajectory.task.env_id, **trajectory.task.kwargs)
    env.reset(seed=trajectory.task.seed)
    for turn in trajectory.turns:
        _, reward, terminated, truncated, info = env.step(turn.action)
        assert tuple(info["messages"]) == turn.observations
        assert (reward, terminated, truncated) == (turn.reward, turn.terminated, turn.truncated)


# The expert.


def test_the_expert_acts_without_a_policy_and_its_tokens_are_read_as_what_it_meant() -> None:
    [trajectory] = collect(assignments(actor="expert"), {}, chat(), ROOMY)
    assert trajectory.outcome.success
    assert trajectory.actors == ("expert",)
    assert [turn.action for turn in trajectory.turns] == [CLIMB] * len(trajectory.turns)
    assert all(turn.drift == "clean" for turn in trajectory.turns[:-1])
    assert all(turn.errors == () and turn.finish == "stop" for turn in trajectory.turns)


def test_advice_is_recorded_beside_the_students_actions() -> None:
    assert [turn.advice for turn in play("Hello.", CLIMB, advice=True).turns] == [CLIMB, CLIMB]
    assert [turn.advice for turn in play("Hello.", CLIMB).turns] == [None, None]
    assert [turn.advice for turn in play("Hello.", "x", advice=True, env=PLAIN).turns] == [None, None]


def test_an_expert_action_that_does_not_fit_a_turn_fails_its_episode() -> None:
    wordy = assignments(actor="expert", wordy=True)
    needed = len(chat().write([{"role": "user", "content": ""}], call("climb", steps=10**40)))
    settings = ROOMY.model_copy(update={"max_new_tokens": needed - 1})
    long, short = collect([*wordy, *assignments(actor="expert")], {}, chat(), settings)
    assert long.failure is not None
    assert (long.failure.boundary, long.failure.kind) == ("env", "too_long")
    assert long.failure.message == (
        f"rollout.max_new_tokens={needed - 1} is too small: an action of the expert of tests/Ladder-v0 has {needed} tokens; set "
        f"it to {needed} or more"
    )
    assert [turn.action for turn in long.turns] == [CLIMB]
    assert short.outcome.success
    roomy = settings.model_copy(update={"max_new_tokens": needed})
    assert collect(wordy, {}, chat(), roomy)[0].outcome.success
    with pytest.raises(EnvError, match=r"2 of 2 episodes failed.*rollout\.max_new_tokens=3 is too small"):
        collect(assignments(2, actor="expert"), {}, chat(), ROOMY.model_copy(update={"max_new_tokens": 3}))


def test_an_environment_without_the_expert_that_must_act_fails() -> None:
    [trajectory] = collect(assignments(actor="expert", env=PLAIN), {}, chat(), ROOMY)
    assert trajectory.failure is not None
    assert "has no expert" in trajectory.failure.message


# Ends and limits.


def test_a_plain_gymnasium_environment_can_be_played() -> None:
    trajectory = play("Hello.", "Hi.", "never", env=PLAIN)
    assert [turn.observations[0]["content"] for turn in trajectory.turns] == [
        "You said 6 letters.",
        "You said 3 letters.",
    ]
    assert trajectory.turns[0].observations[0]["role"] == "user"
    assert trajectory.outcome == type(trajectory.outcome)(1.0, False, "truncated")


@pytest.mark.filterwarnings("ignore:.*reward is a NaN")
def test_a_reward_that_is_not_finite_is_a_failure() -> None:
    failure = play("Hello.", env=PLAIN, reward=float("nan")).failure
    assert failure is not None
    assert "a reward must be a finite number, not nan" in failure.message


def test_turn_limit() -> None:
    trajectory = play("Hello.", "Hello.")
    assert trajectory.outcome.stop == "turn_limit"
    assert [turn.drift for turn in trajectory.turns] == ["clean", "last"]
    assert not trajectory.outcome.success


def test_success_privileged_facts_and_versions() -> None:
    [trajectory] = collect(assignments(), student(*[CLIMB] * 5), chat(), ROOMY)
    assert trajectory.outcome == type(trajectory.outcome)(1.0, True, "terminated")
    assert trajectory.privileged == {"height": len(trajectory.turns)}
    told = {"agentopd", "transformers", "torch", "gymnasium", "tokenizer", "sampling", "engine"}
    assert set(trajectory.versions) == told


def overflowing(on_overflow: str) -> Trajectory:
    first = play("Hello.", "Hello.")
    room = len(first.segments[0]) + 30 + 40  # two turns fit, and little more
    settings = Rollout.model_validate(
        {"max_turns": 9, "max_length": room, "max_new_tokens": 30, "on_overflow": on_overflow}
    )
    return play(*["Hello."] * 9, settings=settings)


def test_overflow_truncates() -> None:
    trajectory = overflowing("truncate")
    assert trajectory.outcome.stop == "overflow"
    assert trajectory.turns[-1].drift == "last"
    assert 2 <= len(trajectory.turns) < 9


def test_overflow_drops_the_oldest_turns_and_forks() -> None:
    trajectory = overflowing("drop_oldest")
    assert trajectory.outcome.stop == "turn_limit"
    forks = [turn for turn in trajectory.turns if turn.drift == "forked"]
    assert len(trajectory.segments) == 1 + len(forks) > 1
    text = chat().tokenizer.decode(trajectory.segments[-1].tokens_T.tolist())
    assert "The ladder has" in text
    assert trajectory.turns[-1].segment == len(trajectory.segments) - 1
    assert rollout_metrics([trajectory])["drift/forked"] == len(forks)


@pytest.mark.parametrize("on_overflow", ["truncate", "drop_oldest"])
def test_an_observation_that_cannot_fit_is_kept_and_never_tokenised(
    on_overflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Rollout.model_validate({"max_length": 4096, "on_overflow": on_overflow, "max_new_tokens": 100})
    monkeypatch.setattr(Chat, "extend", lambda *_: pytest.fail("tokenised"))
    flood = play("Hello.", trouble="flood", settings=settings)
    assert flood.outcome.stop == "overflow"
    assert len(flood.turns[0].observations[0]["content"]) == 2_000_000
    assert chat().longest_token >= len(CLIMB.split()[0])


def test_a_first_prompt_that_does_not_fit_is_refused_before_the_run() -> None:
    tasks = [a.task for a in assignments(2)]
    check_first_prompts(tasks, chat(), ROOMY)
    small = Rollout(max_length=20, max_new_tokens=10)
    with pytest.raises(
        ConfigError, match=r"rollout\.max_length=20 is too small for tests/Ladder-v0.*set rollout\.max_length to \d+"
    ):
        check_first_prompts(tasks, chat(), small)
    assert play(CLIMB, settings=small).outcome.stop == "overflow"


def test_an_environment_is_refused_only_where_none_of_its_tasks_can_be_started() -> None:
    good, broken = Task(LADDER, 0), [Task(LADDER, seed, {"trouble": "reset"}) for seed in (7, 8)]
    check_first_prompts([*broken, good], chat(), ROOMY)
    message = (
        r"^tests/Ladder-v0 cannot be started: 2 of 2 tasks failed; the first, with seed 7: RuntimeError: no ladder \(rollout_ladder\.py, line \d+\); "
        r"agentopd\.testing\.check_text_env\('tests/Ladder-v0'\) shows what is wrong with it$"
    )
    with pytest.raises(EnvError, match=message):
        check_first_prompts(broken, chat(), ROOMY)


# The machinery.


def test_done_is_called_once_an_episode_and_order_is_kept() -> None:
    done: list[Key] = []
    settings = ROOMY.model_copy(update={"concurrency": 2})
    trajectories = collect(
        assignments(6), student(*[CLIMB] * 5), chat(), settings, on_done=lambda t: done.append(t.key)
    )
    assert sorted(done) == [t.key for t in trajectories]
    assert [t.key.index for t in trajectories] == list(range(6))


def test_no_assignments_give_no_trajectories() -> None:
    assert collect([], {}, chat(), ROOMY) == []
    assert rollout_metrics([]) == {}


def test_solved_within_covers_four_fifths_of_the_successes() -> None:
    won, lost = play(*[CLIMB] * 5), play(*["Hello."] * 2)
    lengths = [1, 2, 3, 3, 5]
    each = [replace(won, turns=won.turns[:length]) for length in lengths]
    for count, expected in ((5, 3.0), (4, 3.0), (2, 2.0), (1, 1.0)):
        assert rollout_metrics([*each[:count], lost])["solved_within"] == expected
    assert "solved_within" not in rollout_metrics([lost])


def test_metrics_by_hand() -> None:
    trajectories = [play(*["Hello."] * 2), play(*[CLIMB] * 5)]
    metrics = rollout_metrics(trajectories)
    turns = [turn for t in trajectories for turn in t.turns]
    assert metrics["success"] == 0.5
    won = [t for t in trajectories if t.outcome.success]
    assert metrics["solved_within"] == len(won[0].turns)
    assert metrics["reward"] == 0.5
    assert metrics["turns"] == len(turns) / 2
    assert metrics["generated"] == sum(turn.stop - turn.start for turn in turns) / 2
    assert metrics["errors/no_call"] == 1.0
    assert metrics["stop/turn_limit"] == metrics["stop/terminated"] == 0.5
    assert metrics["drift/clean"] == (len(turns) - 2) / 2
    assert metrics["truncated"] == 0.5
    assert metrics["failures"] == metrics["cut"] == 0.0
    assert metrics["parsed"] == 1.0
    assert metrics["tools/climb/calls"] == len(won[0].turns) / 2


def test_metrics_of_tools_by_hand() -> None:
    taken = play(CLIMB, call("jump"), call("dance"))
    assert [(one.name, one.outcome) for turn in taken.turns for one in turn.outcomes] == [
        ("climb", "ok"), ("jump", "tool_crash"), ("dance", "unknown_tool"),
    ]  # fmt: skip
    calls = CallOutcome("climb", "ok", 0.5), CallOutcome("climb", "tool_error", 1.5), CallOutcome("nap", "ok", 2.0)
    turns = (replace(taken.turns[0], outcomes=calls), *taken.turns[1:])
    metrics = rollout_metrics([replace(taken, turns=turns), replace(taken, turns=())])
    assert {name: value for name, value in metrics.items() if name.startswith("tools/") and "/jump/" not in name} == {
        "tools/climb/calls": 1.0, "tools/climb/errors": 0.5, "tools/climb/seconds": 1.0,
        "tools/nap/calls": 0.5, "tools/nap/errors": 0.0, "tools/nap/seconds": 2.0,
    }  # fmt: skip
    assert all(is_measured(f"rollout/{name}", []) for name in metrics if name.startswith("tools/"))


def test_what_is_cut_off_and_what_parses_by_hand() -> None:
    """Of three turns one has a malformed block, one is cut before its call is whole, which is malformed as well, one has no block."""
    cut = say(CLIMB)[:3]
    policy = ScriptedPolicy([say("<tool_call>{</tool_call>"), cut, say("Well.")])
    settings = ROOMY.model_copy(update={"max_turns": 3})
    metrics = rollout_metrics(collect(assignments(), {"student": policy}, chat(), settings))
    assert metrics["parsed"] == pytest.approx(1 / 3)
    assert metrics["cut"] == pytest.approx(1 / 3)
    assert metrics["truncated"] == metrics["stop/turn_limit"] == 1.0


def test_the_family_that_reset_tells_is_kept() -> None:
    assert play(CLIMB, kind="short").family == "short"
    assert play(CLIMB).family == ""
    failed = play(CLIMB, kind=3).failure
    assert failed is not None
    assert "Ladder.family must be text" in failed.message
    plain = play("Hello.", env=PLAIN, family=["a"]).failure
    assert plain is not None
    assert "info['family'] must be text, the name of a kind of task, not ['a']" in plain.message
