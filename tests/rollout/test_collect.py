"""Episodes against small environments, with scripted policies."""

import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import gymnasium
import numpy as np
import pytest

import agentopd.env as environments
from agentopd.chat import Chat, Extension
from agentopd.env import TextEnv, TextSpace
from agentopd.errors import ConfigError, EnvError, PolicyError
from agentopd.models import build_tokenizer
from agentopd.rollout.collect import collect
from agentopd.rollout.metrics import rollout_metrics
from agentopd.rollout.policy import Assignment, Generation, Policy, Request, Rollout
from agentopd.rollout.preflight import check_first_prompts
from agentopd.rollout.scripted import ScriptedPolicy
from agentopd.tooling import call, tool
from agentopd.types import CONTEXT, Failure, Key, Task, Trajectory

LADDER, PLAIN = "tests/Ladder-v0", "tests/Plain-v0"
CLIMB = call("climb", steps=1)


class Ladder(TextEnv):
    """Climb to the top, one step at a time."""

    instructions = "Climb the ladder."

    def __init__(self, trouble: str = "") -> None:
        super().__init__()
        self.trouble = trouble

    def start(self) -> str:
        if self.trouble == "reset":
            raise RuntimeError("no ladder")
        self.height, self.at = int(self.np_random.integers(2, 5)), 0
        return f"The ladder has {self.height} steps."

    @tool
    def climb(self, steps: int) -> str:
        """Climbs.

        Args:
            steps: How many.
        """
        if self.trouble == "hang":
            time.sleep(1.0)
        self.at += steps
        if self.at >= self.height:
            self.finish(reward=1.0)
        return f"You stand on step {self.at}."

    @tool(time_limit=0.05)
    def rest(self) -> str:
        """Rests for too long."""
        time.sleep(0.3)
        return "Rested."

    @tool
    def jump(self) -> str:
        """Jumps; it never works."""
        raise ValueError("too high")

    def respond(self, text: str) -> str:
        if self.trouble == "step":
            raise KeyError("step")
        return super().respond(text)

    def expert(self) -> str:
        return CLIMB

    def privileged(self) -> dict[str, Any]:
        return {"height": self.height}


class Plain(gymnasium.Env[str, str]):
    """A text environment that knows nothing of messages or tools."""

    observation_space = TextSpace()
    action_space = TextSpace()

    def __init__(self, reward: float = 0.5) -> None:
        self.reward = reward

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return "Say something.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return f"You said {len(action)} letters.", self.reward, False, self.count == 2, {}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    for env_id, entry_point in ((LADDER, Ladder), (PLAIN, Plain)):
        gymnasium.register(env_id, entry_point=f"{__name__}:{entry_point.__name__}")
    yield
    for env_id in (LADDER, PLAIN):
        del gymnasium.registry[env_id]


@cache
def chat() -> Chat:
    words = ["Climb the ladder. Use a tool. You stand on step", CLIMB, '{"name": "climb", "arguments": {"steps": 1}}']
    return Chat(build_tokenizer(words, vocab_size=600))


def say(text: str) -> list[int]:
    tokens: list[int] = chat().tokenizer.encode(text, add_special_tokens=False)
    return [*tokens, chat().end_of_turn]


def student(*texts: str) -> dict[str, Policy]:
    return {"student": ScriptedPolicy([say(text) for text in texts])}


def assignments(count: int = 1, actor: str = "student", env: str = LADDER, **kwargs: Any) -> list[Assignment]:
    return [
        Assignment(Task(env, seed=i, kwargs=kwargs), Key("run", 0, i), actor, seed=100 + i, source="fresh")
        for i in range(count)
    ]


def play(*texts: str, settings: Rollout | None = None, advice: bool = False, **kwargs: Any) -> Trajectory:
    settings = settings or Rollout(max_turns=len(texts), time_limit=5.0, max_length=4000, max_new_tokens=100)
    [trajectory] = collect(assignments(**kwargs), student(*texts), chat(), settings, advice)
    return trajectory


ROOMY = Rollout(max_turns=8, time_limit=5.0, max_length=4000, max_new_tokens=100)


# A bad action is an observation.


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<tool_call>\n{not json\n</tool_call>", "malformed_call"),
        (call("fly"), "unknown_tool"),
        (call("climb", steps="many"), "bad_arguments"),
        (call("jump"), "tool_error"),
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


def test_invariant_9_an_environment_that_raises_in_reset_fails_its_episode() -> None:
    trajectory = play(CLIMB, trouble="reset")
    assert trajectory.failure == Failure("env", "raised", "RuntimeError: no ladder")
    assert trajectory.outcome.stop == "failed"
    assert (trajectory.turns, trajectory.segments) == ((), ())
    assert rollout_metrics([trajectory])["failures/raised"] == 1.0


def test_invariant_9_an_environment_that_raises_in_step_keeps_the_turns_so_far() -> None:
    trajectory = play(CLIMB, "Hello.", trouble="step")
    assert trajectory.failure == Failure("env", "raised", "KeyError: 'step'")
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


def test_a_broken_policy_is_not_one_bad_episode() -> None:
    def broken(request: Request) -> Sequence[int]:
        raise RuntimeError("out of memory")

    with pytest.raises(PolicyError, match="'student' failed: RuntimeError: out of memory"):
        collect(assignments(), {"student": ScriptedPolicy(broken)}, chat(), ROOMY)


def test_an_actor_without_a_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no policy acts as 'studnet'.*did you mean 'student'"):
        collect(assignments(actor="studnet"), student(CLIMB), chat(), ROOMY)


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

    def refresh(self) -> None: ...


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


def test_an_expert_action_that_does_not_fit_a_turn_is_a_config_error() -> None:
    settings = ROOMY.model_copy(update={"max_new_tokens": 3})
    with pytest.raises(ConfigError, match=r"rollout\.max_new_tokens=3 is too small"):
        collect(assignments(actor="expert"), {}, chat(), settings)


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
    assert trajectory.outcome == type(trajectory.outcome)(1.0, True, "truncated")


@pytest.mark.filterwarnings("ignore:.*reward is a NaN")
def test_a_reward_that_is_not_finite_is_a_failure() -> None:
    failure = play("Hello.", env=PLAIN, reward=float("nan")).failure
    assert failure is not None
    assert "must be finite" in failure.message


def test_turn_limit() -> None:
    trajectory = play("Hello.", "Hello.")
    assert trajectory.outcome.stop == "turn_limit"
    assert [turn.drift for turn in trajectory.turns] == ["clean", "last"]
    assert not trajectory.outcome.success


def test_success_privileged_facts_and_versions() -> None:
    [trajectory] = collect(assignments(), student(*[CLIMB] * 5), chat(), ROOMY)
    assert trajectory.outcome == type(trajectory.outcome)(1.0, True, "terminated")
    assert trajectory.privileged == {"height": len(trajectory.turns)}
    assert set(trajectory.versions) == {"agentopd", "transformers", "torch", "gymnasium"}


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


def test_a_first_prompt_that_does_not_fit_is_refused_before_the_run() -> None:
    tasks = [a.task for a in assignments(2)]
    check_first_prompts(tasks, chat(), ROOMY)
    small = Rollout(max_length=20, max_new_tokens=10)
    with pytest.raises(
        ConfigError, match=r"rollout\.max_length=20 is too small for tests/Ladder-v0.*set rollout\.max_length to \d+"
    ):
        check_first_prompts(tasks, chat(), small)
    with pytest.raises(EnvError, match="cannot be started"):
        check_first_prompts([Task(LADDER, 0, {"trouble": "reset"})], chat(), ROOMY)
    assert play(CLIMB, settings=small).outcome.stop == "overflow"


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


def test_metrics_by_hand() -> None:
    trajectories = [play(*["Hello."] * 2), play(*[CLIMB] * 5)]
    metrics = rollout_metrics(trajectories)
    turns = [turn for t in trajectories for turn in t.turns]
    assert metrics["success"] == 0.5
    assert metrics["reward"] == 0.5
    assert metrics["turns"] == len(turns) / 2
    assert metrics["generated"] == sum(turn.stop - turn.start for turn in turns) / 2
    assert metrics["errors/no_call"] == 1.0
    assert metrics["stop/turn_limit"] == metrics["stop/terminated"] == 0.5
    assert metrics["drift/clean"] == (len(turns) - 2) / 2
    assert metrics["failures"] == metrics["cut"] == 0.0
