"""Extra tools, limits of turns, and text faces."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import OrderEnforcing, RecordEpisodeStatistics, TimeLimit

from agentopd.env import TextEnv, expert_action, has_expert, make, system_prompt, tools_of
from agentopd.env.faces import face_of, tell
from agentopd.env.wrappers import TextFace, ToolUse, TurnLimit
from agentopd.errors import ConfigError, EnvError
from agentopd.isolation.session import Session
from agentopd.testing import check_text_env
from agentopd.tooling import call, render_action, tool
from agentopd.tools.calculator import calculate
from agentopd.types import Task, ToolCall


class Sum(TextEnv):
    """What is 2 + 3?"""

    def start(self) -> str:
        self.steps = 0
        return "2 + 3?"

    @tool
    def submit(self, total: int) -> str:
        """Submit."""
        self.finish(reward=float(total == 5))
        return "Thanks."

    @tool
    def wait(self) -> None:
        """Wait."""
        self.steps += 1


class Talk(TextEnv):
    """Has no tools."""

    def start(self) -> str:
        return "2 + 3?"

    def respond(self, text: str) -> str:
        self.finish(reward=float(text == "5"))
        return "Thanks."


class Corridor(gymnasium.Env[Any, Any]):
    """Actions 5 and 6 walk left and right; the right end pays."""

    def __init__(self, end: int = 2, trouble: bool = False):
        self.action_space = spaces.Discrete(2, start=5)
        self.observation_space = spaces.Dict({"at": spaces.Discrete(9), "speed": spaces.Box(-1, 1, (2,))})
        self.end, self.trouble = end, trouble

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return self._see(), {"secret": np.zeros(3)}

    def step(self, action: int) -> tuple[Any, np.float64, Any, bool, dict[str, Any]]:
        if self.trouble:
            raise KeyError("pothole")
        assert self.action_space.contains(action)
        self.at += 1 if action == 6 else -1
        return self._see(), np.float64(self.at == self.end), np.bool_(abs(self.at) == self.end), False, {}

    def _see(self) -> dict[str, Any]:
        return {"at": self.at % 9, "speed": np.array([0.25, -1 / 3], dtype=np.float32)}


def with_calculator(env: TextEnv) -> ToolUse:
    wrapped = ToolUse(env, [calculate])
    wrapped.reset(seed=0)
    return wrapped


def test_extra_tools_are_answered_without_a_step() -> None:
    env = with_calculator(Sum())
    assert tools_of(env).names == ("submit", "wait", "calculate")
    observation, reward, terminated, truncated, info = env.step(call("calculate", expression="2+3"))
    assert (observation, reward, terminated, truncated) == ("5", 0.0, False, False)
    assert info == {"messages": [{"role": "tool", "name": "calculate", "content": "5"}], "errors": []}


def test_mixed_actions_answer_extra_tools_first() -> None:
    env = with_calculator(Sum())
    calls = [ToolCall("wait", {}), ToolCall("calculate", {"expression": "2+"}), ToolCall("submit", {"total": 5})]
    observation, reward, terminated, _, info = env.step(render_action("Go.", calls) + "<tool_call>")
    assert observation == "not an expression\nok\nThanks.\nmalformed call: the block is not closed"
    assert [message["role"] for message in info["messages"]] == ["tool", "tool", "tool", "user"]
    assert info["errors"] == ["tool_error", "malformed_call"]
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    with pytest.raises(ResetNeeded):
        env.step(call("calculate", expression="1"))


def test_what_is_not_an_extra_tool_is_the_environments() -> None:
    env = with_calculator(Sum())
    assert env.step(call("nothing"))[4]["errors"] == ["unknown_tool"]
    assert env.step("<tool_call>")[4]["errors"] == ["malformed_call"]
    assert env.step("hello")[4]["errors"] == ["no_call"]
    malformed = env.step(call("calculate", expression="1") + "<tool_call>")
    assert malformed[0] == "1\nmalformed call: the block is not closed"


def test_an_environment_without_tools_gets_some() -> None:
    env = with_calculator(Talk())
    assert env.step(call("nothing"))[0] == "unknown tool 'nothing'; tools: calculate"
    assert env.step(call("calculate", expression="2+3"))[0] == "5"
    assert env.step("5")[1:3] == (1.0, True)


def test_extra_tools_must_have_names_of_their_own() -> None:
    with pytest.raises(ConfigError, match="'calculate'"):
        ToolUse(make("agentopd/Checkout-v0"), [calculate])


def test_turn_limit_truncates_and_says_so() -> None:
    env = TurnLimit(Sum(), turns=2)
    for _ in range(2):
        env.reset(seed=0)
        first, second = env.step("a"), env.step("b")
        assert first[2:4] == (False, False)
        assert "turn_limit" not in first[4]
        assert second[2:4] == (False, True)
        assert second[4]["turn_limit"] is True
        assert second[4]["success"] is False
    env.reset()
    env.step("a")
    last = env.step(call("submit", total=5))
    assert last[2:4] == (True, False)
    assert "turn_limit" not in last[4]
    with pytest.raises(ConfigError, match="turns=0"):
        TurnLimit(Sum(), turns=0)


def test_experts_and_prompts_are_seen_through_wrappers() -> None:
    env = TurnLimit(make("agentopd/Calculator-v0"), turns=20)
    env.reset(seed=0)
    assert has_expert(env)
    assert "calculate" in expert_action(env)
    assert "one at a time" in system_prompt(env)


@pytest.mark.parametrize(("told", "found"), [({"family": "long"}, "long"), ({"family": 3}, None), ({}, None)])
def test_a_face_passes_on_the_family_alone(told: dict[str, Any], found: str | None) -> None:
    class Known(Corridor):
        def reset(self, **kwargs: Any) -> Any:
            observation, _ = super().reset(**kwargs)
            return observation, told | {"secret": 7}

    info = TextFace(Known(), actions=["left", "right"]).reset(seed=0)[1]
    assert info.get("family") == found
    assert "secret" not in info


def test_a_face_for_any_discrete_environment() -> None:
    env = TextFace(Corridor(), actions=["left", "right"])
    observation, info = env.reset(seed=0)
    assert observation == "at: 0\nspeed: 0.25 -0.3333"
    assert info == {"messages": [{"role": "user", "content": observation}], "errors": []}
    assert env.tools.schemas[0]["function"]["parameters"]["properties"]["action"]["enum"] == ["left", "right"]
    observation, reward, terminated, _, info = env.step(call("act", action="up"))
    assert observation == "no action 'up'; actions: left, right"
    assert info["errors"] == ["invalid_action"]
    assert (reward, terminated) == (0.0, False)
    assert env.step("right")[4]["errors"] == ["no_call"]
    twice = render_action("", [ToolCall("act", {"action": "right"})] * 3)
    observation, reward, terminated, truncated, info = env.step(twice)
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert (type(reward), type(terminated)) == (float, bool)
    assert len(info["messages"]) == 2  # not the call after the end
    with pytest.raises(ResetNeeded):
        env.step("x")


def test_default_action_names_are_the_numbers_and_success_can_be_chosen() -> None:
    env = TextFace(Corridor(), describe=lambda env, seen: f"At {seen['at']}.", success=lambda total: total == 0)
    assert env.reset()[0] == "At 0."
    env.step(call("act", action="5"))
    assert env.step(call("act", action="5"))[4]["success"] is True
    with pytest.raises(ConfigError, match="2 different names"):
        TextFace(Corridor(), actions=["left", "left"])


def test_a_broken_environment_is_not_a_bad_action() -> None:
    env = TextFace(Corridor(trouble=True))
    env.reset()
    with pytest.raises(EnvError, match="KeyError: 'pothole'"):
        env.step(call("act", action="6"))


class Paying(Corridor):
    """Its end pays what is no reward."""

    def __init__(self, reward: Any):
        super().__init__(end=1)
        self.reward = reward

    def step(self, action: int) -> tuple[Any, Any, Any, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        if self.reward == "exit":
            raise SystemExit(1)
        return observation, self.reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (None, "a reward must be a finite number, not None"),
        (float("nan"), "a reward must be a finite number, not nan"),
        ("exit", "raised SystemExit: 1"),
    ],
)
def test_what_an_environment_below_a_face_breaks_is_not_blamed_on_the_call(reward: Any, message: str) -> None:
    env = TextFace(Paying(reward))
    env.reset()
    with pytest.raises(EnvError, match=message):
        env.step(call("act", action="6"))
    if reward != "exit":  # that step did not say that it ended the game
        with pytest.raises(ResetNeeded):
            env.step(call("act", action="6"))


@pytest.mark.parametrize(
    ("space", "value", "text"),
    [
        (spaces.Discrete(4), np.int64(3), "3"),
        (spaces.MultiDiscrete([3, 3]), np.array([1, 2]), "1 2"),
        (spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 1, (2, 1))]), (1, np.array([[0.5], [1.0]])), "1, 0.5 1"),
        (spaces.Text(5), "hello", "hello"),
        (
            spaces.Box(-1e99, 1e99, (5,), np.float64),
            np.array([123456.78, -9999.6, 1234.4, 0.0123456, 1e16]),
            "123457 -10000 1234 0.01235 1e+16",
        ),
    ],
)
def test_observations_as_text(space: spaces.Space[Any], value: Any, text: str) -> None:
    assert tell(space, value) == text


@pytest.mark.parametrize(
    ("id", "observation", "text"),
    [
        ("FrozenLake-v1", 6, "SFFF\nFHFH\nFFFH\nHFFG\nYou: row 1, column 2. Goal: row 3, column 3."),
        ("CliffWalking-v1", 25, "You: row 2, column 1."),
        ("Taxi-v4", ((3 * 5 + 1) * 5 + 2) * 4 + 3, "Taxi: row 3, column 1. Passenger: at yellow. Destination: blue."),
        ("Taxi-v4", ((0 * 5 + 4) * 5 + 4) * 4 + 0, "Taxi: row 0, column 4. Passenger: in the taxi. Destination: red."),
        ("Blackjack-v1", (14, 10, 0), "Your sum: 14. The dealer shows 10."),
        ("Blackjack-v1", (18, 1, 1), "Your sum: 18, with a usable ace. The dealer shows 1."),
    ],
)
def test_toy_text_games_in_words(id: str, observation: Any, text: str) -> None:
    env = gymnasium.make(id)
    assert face_of(env).describe(env, observation) == text


def test_taxi_moves_as_named() -> None:
    env = make("Taxi-v4")
    env.reset(seed=0)
    env.unwrapped.s = ((2 * 5 + 2) * 5 + 0) * 4 + 1  # type: ignore[attr-defined]
    places = [env.step(call("act", action=move))[0].split(".")[0] for move in ("south", "north", "east")]
    assert places == ["Taxi: row 3, column 2", "Taxi: row 2, column 2", "Taxi: row 2, column 3"]


def walk(id: str, moves: list[str], **kwargs: Any) -> dict[str, Any]:
    env = make(id, **kwargs)
    env.reset(seed=0)
    for move in moves:
        *_, terminated, _, info = env.step(call("act", action=move))
    assert terminated
    return info


def test_success_of_toy_text_games() -> None:
    down_right = ["down", "down", "right", "right", "down", "right"]
    assert walk("FrozenLake-v1", down_right, is_slippery=False)["success"] is True
    assert walk("FrozenLake-v1", ["right", "down"], is_slippery=False)["success"] is False
    assert walk("CliffWalking-v1", ["up", *["right"] * 11, "down"])["success"] is True


@pytest.mark.parametrize("id", ["FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "Taxi-v4", "Blackjack-v1"])
def test_faces_conform(id: str) -> None:
    assert check_text_env(id).tools == ("act",)


def stock(env: TextEnv) -> gymnasium.Env[str, str]:
    return RecordEpisodeStatistics(OrderEnforcing(TimeLimit(env, max_episode_steps=3)))


class Known(Sum):
    """With all that a collector asks for."""

    instructions = "Add."

    def expert(self) -> str:
        return call("submit", total=5)

    def privileged(self) -> dict[str, Any]:
        return {"total": 5}


@pytest.fixture
def stock_id() -> Iterator[str]:
    gymnasium.register("tests/Stock-v0", entry_point=lambda **kwargs: stock(Known(**kwargs)))
    yield "tests/Stock-v0"
    gymnasium.registry.pop("tests/Stock-v0")


def test_stock_wrappers_let_everything_through_to_the_collector(stock_id: str) -> None:
    session = Session(Task(stock_id, seed=0), advice=True, needs_expert=True)
    begun = session.reset()
    assert begun.system == "Add."
    assert [schema["function"]["name"] for schema in begun.tools] == ["submit", "wait"]
    assert begun.privileged == {"total": 5}
    assert begun.advice == call("submit", total=5)
    ended = session.step(str(begun.advice))
    assert (ended.reward, ended.terminated, ended.success) == (1.0, True, True)


def test_stock_wrappers_conform_and_do_their_work(stock_id: str) -> None:
    assert check_text_env(stock_id).expert_turns == 1.0
    env = make(stock_id)
    with pytest.raises(ResetNeeded):
        env.step("x")
    env.reset(seed=0)
    assert isinstance(env.unwrapped, Known)
    assert [env.step(call("wait"))[3] for _ in range(3)] == [False, False, True]
    env.reset(seed=0)
    info = env.step(call("submit", total=5))[4]
    assert (info["episode"]["r"], info["episode"]["l"], info["success"]) == (1.0, 1, True)


def test_gymnasium_makes_vectors_of_text() -> None:
    envs = gymnasium.make_vec("agentopd.envs:agentopd/Checkout-v0", 2, items=1, failure_rate=0.0)
    assert isinstance(envs, SyncVectorEnv)
    observations, _ = envs.reset(seed=0)
    assert all("cost?" in text for text in observations)
    assert envs.get_attr("tools")[1].names == ("price", "calculate", "submit")
    assert list(envs.step(envs.call("expert"))[1]) == [0.0, 0.0]


def test_a_face_renders_as_the_game_does() -> None:
    env = make("FrozenLake-v1", render_mode="ansi", is_slippery=False)
    env.reset(seed=0)
    env.step(call("act", action="right"))
    assert "(Right)" in str(env.render())
    assert env.render_mode == "ansi"


@pytest.mark.filterwarnings("ignore:.*render_mode")
def test_an_environment_that_cannot_render_says_so() -> None:
    with pytest.raises(ConfigError, match="render_mode"):
        make("agentopd/Checkout-v0", render_mode="human")


def test_a_face_passes_on_an_expert_below_it() -> None:
    class Guided(Corridor):
        def expert(self) -> str:
            return call("act", action="6")

    env = TurnLimit(TextFace(Guided()), turns=5)
    env.reset(seed=0)
    env.step(expert_action(env))
    assert env.step(expert_action(env))[4]["success"] is True
