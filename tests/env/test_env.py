"""TextEnv, and how environments are found and made."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.env import (
    TextEnv,
    TextSpace,
    expert_action,
    has_expert,
    make,
    registry,
    system_prompt,
    tools_of,
)
from agentopd.env.wrappers import TextFace, TurnLimit
from agentopd.errors import ConfigError, EnvError, ToolError
from agentopd.testing import check_text_env
from agentopd.tooling import call, render_action, tool
from agentopd.types import ToolCall

GUESS = '''\
import gymnasium
from agentopd import TextEnv, call, tool


class Guess(TextEnv):
    instructions = "Find the hidden number from 1 to 20."

    def start(self) -> str:
        self.hidden = int(self.np_random.integers(1, 21))
        self.low, self.high = 1, 20
        return "Guess."

    @tool
    def guess(self, number: int) -> str:
        """Guess the number."""
        if number == self.hidden:
            self.finish(reward=1.0)
            return "Right."
        if number < self.hidden:
            self.low = max(self.low, number + 1)
            return "Too low."
        self.high = min(self.high, number - 1)
        return "Too high."

    def expert(self) -> str:
        return call("guess", number=(self.low + self.high) // 2)


gymnasium.register("me/Guess-v0", entry_point=Guess, max_episode_steps=8)
'''


@tool
def shout(text: str) -> str:
    """Shout."""
    return text.upper()


class Door(TextEnv):
    """Opens with the drawn code; knocks pay."""

    instructions = "Open the door."
    extra_tools = (shout,)

    def __init__(self, digits: int = 1):
        self.digits = digits  # without super().__init__()

    def start(self) -> str:
        if self.options.get("trouble") == "start":
            raise KeyError("start")
        self.code = int(self.np_random.integers(10**self.digits))
        self.facts = {"code": [self.code]}
        return f"A door with {self.digits} digits."

    @tool
    def enter(self, code: int) -> str:
        """Enter the code."""
        self.finish(reward=float(code == self.code))
        return "Open." if code == self.code else "Alarm."

    @tool
    def knock(self) -> str:
        """Knock."""
        self.add_reward(0.25)
        return "Knock."

    @tool
    def leave(self) -> None:
        """Leave, which counts as success."""
        self.finish(success=True)

    @tool
    def kick(self) -> str:
        """Break the environment."""
        raise EnvError("the door fell out of the world")

    def respond(self, text: str) -> Any:
        if text == "bug":
            raise KeyError("respond")
        if text == "number":
            return 3
        if text == "rude":
            raise ToolError("Be polite.", kind="invalid_action")
        return "Hm."

    def expert(self) -> str:
        return call("enter", code=self.code)

    def privileged(self) -> dict[str, Any]:
        return self.facts


class Silent(TextEnv):
    def start(self) -> str:
        return "..."


class Early(TextEnv):
    def start(self) -> str:
        self.finish()
        return "Over."


@pytest.fixture
def door() -> Door:
    door = Door()
    door.reset(seed=0)
    return door


@pytest.fixture
def clean_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A working directory that is not on the path, and a registry restored afterwards."""
    before, modules = dict(gymnasium.registry), set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    gymnasium.registry.clear()
    gymnasium.registry.update(before)
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_reset_tells_the_task() -> None:
    observation, info = Door(digits=2).reset(seed=3)
    assert observation == "A door with 2 digits."
    assert info["messages"] == [{"role": "user", "content": observation}]
    assert info["errors"] == []
    assert "success" not in info


def test_calls_run_in_order_and_become_tool_messages(door: Door) -> None:
    action = render_action("x", [ToolCall("knock", {}), ToolCall("shout", {"text": "hey"}), ToolCall("knock", {})])
    observation, reward, terminated, truncated, info = door.step(action)
    assert (observation, reward, terminated, truncated) == ("Knock.\nHEY\nKnock.", 0.5, False, False)
    assert info["messages"][1] == {"role": "tool", "name": "shout", "content": "HEY"}
    assert door.step(call("knock"))[1] == 0.25


def test_finish_ends_the_action_and_the_episode(door: Door) -> None:
    action = render_action("", [ToolCall("enter", {"code": door.code}), ToolCall("knock", {})])
    observation, reward, terminated, _, info = door.step(action)
    assert (observation, reward, terminated, info["success"]) == ("Open.", 1.0, True, True)
    with pytest.raises(ResetNeeded):
        door.step("x")
    door.reset()
    assert door.step(call("enter", code=-1))[4]["success"] is False
    door.reset()
    assert door.step(call("leave"))[1:3] == (0.0, True)


def test_success_can_be_said_without_a_reward(door: Door) -> None:
    assert door.step(call("leave"))[4]["success"] is True


@pytest.mark.parametrize(
    ("action", "errors", "message"),
    [
        (call("open"), ["unknown_tool"], "unknown tool 'open'; tools: enter, knock, leave, kick, shout"),
        (call("enter", code="1"), ["bad_arguments"], "enter: code: Input should be a valid integer (got '1')"),
        ("<tool_call>{", ["malformed_call"], "malformed call: the block is not closed"),
        (
            "<tool_call>1</tool_call><tool_call>{}</tool_call>",
            ["malformed_call", "malformed_call"],
            'malformed call: expected {"name": ..., "arguments": {...}} (and 1 more)',
        ),
        (call("knock") + "<tool_call>", ["malformed_call"], "Knock.\nmalformed call: the block is not closed"),
        ("rude", ["invalid_action"], "Be polite."),
        ("hello", [], "Hm."),
    ],
)
def test_invariant_9_a_bad_action_is_an_observation(door: Door, action: str, errors: list[str], message: str) -> None:
    observation, _, terminated, _, info = door.step(action)
    assert (observation, info["errors"], terminated) == (message, errors, False)


def test_without_a_call_the_default_names_the_tools() -> None:
    class Mute(Door):
        respond = TextEnv.respond

    env = Mute()
    env.reset()
    observation, _, _, _, info = env.step("hello")
    assert observation == "Call a tool: enter, knock, leave, kick, shout."
    assert info["errors"] == ["no_call"]


def test_what_the_environment_raises_propagates(door: Door) -> None:
    with pytest.raises(KeyError, match="respond"):
        door.step("bug")
    with pytest.raises(EnvError, match=r"respond\(\) must return text, not 3"):
        door.step("number")
    with pytest.raises(EnvError, match="out of the world"):
        door.step(call("kick"))
    with pytest.raises(KeyError, match="start"):
        door.reset(options={"trouble": "start"})
    silent = Silent()
    silent.reset()
    with pytest.raises(EnvError, match="no tools"):
        silent.step("x")
    with pytest.raises(EnvError, match="at least one action"):
        Early().reset()
    with pytest.raises(NotImplementedError, match="Silent has no expert"):
        silent.expert()


def test_info_is_fresh(door: Door) -> None:
    info = door.step(call("knock"))[4]
    info["messages"].clear()
    info["privileged"]["code"].clear()
    assert door.step(call("knock"))[4]["privileged"] == {"code": [door.code]}


def test_step_needs_reset() -> None:
    with pytest.raises(ResetNeeded):
        Door().step("x")


def test_instances_share_nothing() -> None:
    one, other = Door(), Door()
    assert one.action_space is not other.action_space
    assert one.action_space == other.action_space
    assert one.tools is one.tools


def test_text_space() -> None:
    space, again = TextSpace(seed=1), TextSpace(seed=1)
    assert space.sample() == again.sample()
    assert space.sample() in space
    assert "\u00e9 any\n" in space
    assert 3 not in space
    assert not space.is_np_flattenable


def test_shipped_environments_need_no_import() -> None:
    env = make("agentopd/Checkout-v0", items=1)
    assert system_prompt(env) == "Look up each price, calculate the total, then submit it."
    assert tools_of(env).names == ("price", "calculate", "submit")
    env.reset(seed=0)
    assert has_expert(env)
    assert expert_action(env).startswith("<tool_call>")
    assert gymnasium.make("agentopd.envs:agentopd/Checkout-v0").spec is not None


def test_other_environments_have_neither_tools_nor_experts() -> None:
    env = gymnasium.make("CartPole-v1")
    assert (len(tools_of(env)), system_prompt(env), has_expert(env)) == (0, "", False)
    with pytest.raises(ConfigError, match="no expert"):
        expert_action(env)


def test_a_complete_environment_fits_in_30_lines(clean_imports: Path) -> None:
    assert len(GUESS.splitlines()) <= 30
    (clean_imports / "guess.py").write_text(GUESS)
    report = check_text_env("guess:me/Guess-v0")
    assert (report.expert_rate, report.tools, report.turn_limit) == (1.0, ("guess",), 8)


def test_discrete_environments_get_a_text_face_whose_turns_are_bounded() -> None:
    env = make("FrozenLake-v1", is_slippery=False)
    assert isinstance(env, TurnLimit)
    assert isinstance(env.env, TextFace)
    env.reset(seed=0)
    flags = [env.step("nonsense")[3] for _ in range(100)]
    assert flags.index(True) == 99


@pytest.mark.parametrize(
    ("id", "messages"),
    [
        ("agentopd/Chekout-v0", ["'agentopd/Chekout-v0'", "did you mean 'agentopd/Checkout-v0'", "module:"]),
        ("agentopd/Checkout", ["did you mean 'agentopd/Checkout-v0'"]),
        ("nowhere_at_all:me/Guess-v0", ["module 'nowhere_at_all' cannot be imported", "nowhere_at_all.py"]),
        ("agentopd.envs:me/Unheard-v0", ["'agentopd.envs' was imported but does not register it"]),
        ("ALE/Pong-v5", ['pip install "gymnasium[atari]"']),
        ("", ["''"]),
        ("Pendulum-v1", ["Discrete"]),
    ],
)
def test_an_id_that_cannot_be_made_says_why(id: str, messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make(id)
    assert all(message in str(caught.value) for message in messages), str(caught.value)


def test_arguments_that_do_not_fit_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="itms"):
        make("agentopd/Checkout-v0", itms=3)
    with pytest.raises(ConfigError, match="items=0 must be from 1 to 12"):
        make("agentopd/Checkout-v0", items=0)


def test_a_module_that_breaks_says_how(clean_imports: Path) -> None:
    (clean_imports / "shaky.py").write_text("import no_such_dependency_here\n")
    with pytest.raises(ConfigError, match=r"importing 'shaky' failed with ModuleNotFoundError: .*no_such_dependency"):
        make("shaky:me/Guess-v0")


def test_third_parties_are_found_on_a_miss(clean_imports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load() -> None:
        loaded.append("shop")
        gymnasium.register("third/Door-v0", entry_point=lambda **kwargs: Door(**kwargs))

    def fail() -> None:
        raise OSError("no shelf")

    points = [
        SimpleNamespace(name="bad", value="bad.envs", load=fail),
        SimpleNamespace(name="shop", value="shop.envs", load=load),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "agentopd.envs" else [])
    registry._load_third_parties.cache_clear()
    try:
        make("agentopd/Checkout-v0")
        assert loaded == []
        assert isinstance(make("third/Door-v0").unwrapped, Door)
        with pytest.raises(ConfigError, match=r"entry point bad \(bad\.envs\): OSError: no shelf"):
            make("third/Window-v0")
        assert loaded == ["shop"]
    finally:
        registry._load_third_parties.cache_clear()


def test_observations_that_cannot_be_told_are_refused(clean_imports: Path) -> None:
    class Pixels(gymnasium.Env[Any, Any]):
        action_space = gymnasium.spaces.Discrete(2)
        observation_space = Box(0, 255, (84, 84))

    gymnasium.register("me/Pixels-v0", entry_point=lambda **kwargs: Pixels(**kwargs))
    with pytest.raises(ConfigError, match="me/Pixels-v0: an observation of 7056 numbers is too long to read; wrap it"):
        make("me/Pixels-v0")


@settings(max_examples=40)
@given(st.lists(st.text(max_size=60), max_size=4), st.integers(0, 2**32 - 1))
def test_any_text_is_answered_and_reproducible(actions: list[str], seed: int) -> None:
    def play() -> list[Any]:
        env = make("agentopd/Calculator-v0", failure_rate=0.5)
        return [env.reset(seed=seed), *map(env.step, actions)]

    assert play() == play()


@pytest.mark.parametrize("options", ["abc", [1], 3])
def test_options_are_a_mapping(door: Door, options: Any) -> None:
    with pytest.raises(ConfigError, match="must be a mapping of names to values"):
        door.reset(seed=0, options=options)
