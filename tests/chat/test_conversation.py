"""The messages of a trajectory are those that rollout put into its template."""

from collections.abc import Sequence
from typing import Any

import pytest
from chat_cases import NAMES, tokenizer_of
from hypothesis import given
from hypothesis import strategies as st

import agentopd.env as environments
from agentopd.chat import Chat, Extension
from agentopd.chat.conversation import conversation
from agentopd.rollout import Assignment, Rollout, ScriptedPolicy, collect
from agentopd.tooling.action import call, render_action
from agentopd.types import Key, Message, Outcome, Task, ToolCall, Trajectory, Turn

OPENING: tuple[Message, ...] = ({"role": "system", "content": "Shop."}, {"role": "user", "content": "Begin."})
ANSWER: Message = {"role": "tool", "name": "look_up", "content": "17"}
CHATS = {name: Chat(tokenizer_of(name)) for name in NAMES}

PIECES = [
    "<think>",
    "</think>",
    "\n",
    "\n\n",
    " ",
    "Hm.",
    "<tool_call>",
    "</tool_call>",
    call("look_up", item="a</think>b"),
]
TEXT = st.lists(st.sampled_from(PIECES) | st.text("a<>{\n", max_size=4), max_size=7).map("".join)


def _trajectory(turns: Sequence[Turn]) -> Trajectory:
    return Trajectory(
        Key("run", 0, 0), Task("toy/Sum-v0", 0), ("student",), (), tuple(turns), Outcome(0.0, False, "turn_limit"), opening=OPENING
    )  # fmt: skip


def _turn(index: int, text: str, action: str) -> Turn:
    return Turn(index, "student", 0, 0, 0, text, action, observations=(ANSWER,))


@pytest.mark.parametrize("name", ["ours", "chatml"])
@given(text=TEXT)
def test_a_rebuilt_message_is_the_one_that_the_template_was_given(name: str, text: str) -> None:
    chat = CHATS[name]
    action = chat.read(chat.tokenizer.encode(text, add_special_tokens=False))
    messages = conversation(_trajectory([_turn(0, action.text, action.canonical)]), 1)
    assert messages == [*OPENING, action.message, ANSWER]


def test_a_conversation_stops_before_its_turn() -> None:
    trajectory = _trajectory([_turn(0, "Hello.", "Hello."), _turn(1, "<tool_call>", "<tool_call>")])
    hello, broken = ({"role": "assistant", "content": text} for text in ("Hello.", "<tool_call>"))
    assert conversation(trajectory, 0) == list(OPENING)
    assert conversation(trajectory, 1) == [*OPENING, hello, ANSWER]
    assert conversation(trajectory, 2) == [*OPENING, hello, ANSWER, broken, ANSWER]
    for turn in (-1, 3):
        with pytest.raises(IndexError, match=f"turn={turn}: trajectory run/0/0/0 has 2 turns; give 0 to 2"):
            conversation(trajectory, turn)


def test_a_text_in_another_form_than_the_action_is_not_taken_for_thinking() -> None:
    (*_, message, _) = conversation(_trajectory([_turn(0, "[look]", "Look.")]), 1)
    assert message == {"role": "assistant", "content": "Look."}


def test_calls_and_thinking_by_hand() -> None:
    calls = [ToolCall("look_up", {"item": "pear"}), ToolCall("look_up", {"item": "fig"})]
    action = render_action("Both.", calls)
    (*_, message, _) = conversation(_trajectory([_turn(0, f"<think>\nHm.\n</think>\n\n{action}", action)]), 1)
    assert message == {
        "role": "assistant",
        "content": "<think>\nHm.\n</think>\n\nBoth.",
        "tool_calls": [
            {"type": "function", "function": {"name": "look_up", "arguments": {"item": item}}}
            for item in ("pear", "fig")
        ],
    }


class Noting(Chat):
    """Keeps the conversations that it extends."""

    noted: list[list[Message]]

    def extend(self, messages: Any, action: Any, observations: Any, tools: Any = None) -> Extension:
        self.noted.append([*messages, action.message, *observations])
        return super().extend(messages, action, observations, tools)


PRICE = call("price", item="pears")
TEXTS = ["Hello.", f"<think>hm</think>\n{PRICE}", PRICE + PRICE, "<tool_call>broken", call("fly"), "x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_trajectory_gives_back_the_conversation_that_the_policy_was_in(name: str) -> None:
    noting = Noting(tokenizer_of(name))
    noting.noted = []
    actions = [[*noting.tokenizer.encode(text, add_special_tokens=False), noting.end_of_turn] for text in TEXTS]
    settings = Rollout(max_turns=len(TEXTS), max_new_tokens=200, max_length=8000)
    task = Task("agentopd/Checkout-v0", 3)
    assigned = Assignment(task, Key("run", 0, 0), "student", seed=0, source="fresh")
    [trajectory] = collect([assigned], {"student": ScriptedPolicy(actions)}, noting, settings)
    env = environments.make(task.env_id)
    observation, _ = env.reset(seed=task.seed)
    system: Message = {"role": "system", "content": environments.system_prompt(env)}
    assert trajectory.opening == (system, {"role": "user", "content": observation})
    assert list(trajectory.tools) == environments.tools_of(env).schemas
    prompt = noting.prompt(trajectory.opening, trajectory.tools)
    assert trajectory.segments[0].tokens_T[: trajectory.turns[0].start].tolist() == prompt
    assert len(noting.noted) == len(TEXTS) - 1
    for turn, noted in enumerate(noting.noted, 1):
        assert conversation(trajectory, turn, noting) == noted
