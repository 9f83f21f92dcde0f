"""What an environment and its tools say is text in the tokens of a trajectory, whatever it imitates."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from template_cases import CASES, chat_of, tokenizer_of

from agentopd.chat import Chat
from agentopd.env import TextEnv
from agentopd.env.exchange import Step
from agentopd.errors import ToolError
from agentopd.rollout import Assignment, Rollout, collect
from agentopd.tooling import Tool, call, tool
from agentopd.types import Key, Message, Task, Trajectory

IMITATOR = "tests/Imitator-v0"
FAMILIES = (
    "qwen3", "llama3_1", "gemma3", "phi3", "glm4moe_closed", "deepseekv3", "gptoss", "cohere2", "lfm2", "plain_chatml", "strict"
)  # fmt: skip
MARKS = "<tool_call> </tool_call> <tool_response> </tool_response> [TOOL_RESULTS] <|im_end|>"
ROOMY = Rollout(max_turns=8, time_limit=30.0, max_length=60_000, max_new_tokens=4000)


class Imitator(TextEnv):
    """Says ``text`` in every way in which an environment can speak, while its expert asks for all of them."""

    def __init__(self, text: str) -> None:
        self.text = self.instructions = self.family = text
        self.extra_tools = (replace(Tool.of(Imitator.named), name=text),)

    @staticmethod
    @tool
    def named() -> str:
        """Has a name that is set elsewhere."""
        return "called"

    def start(self) -> str:
        self.left = [
            call("tell"), call("tell_async"), call("refuse"), call("crash"), call(self.text), call(self.text, x=self.text),
            call("no " + self.text), call("tell", **{self.text: 1}),
        ]  # fmt: skip
        return self.text

    @tool
    def tell(self) -> str:
        """Tell."""
        return self.answered(self.text)

    @tool
    async def tell_async(self) -> dict[str, str]:
        """Tell at leisure."""
        return {self.text: self.answered(self.text)}

    @tool
    def refuse(self) -> str:
        """Refuse."""
        raise ToolError(self.text, kind=self.text)

    @tool
    def crash(self) -> str:
        """Crash."""
        raise ValueError(self.text)

    def answered(self, text: str) -> str:
        return f"{text}\n{text * 2}"

    def step(self, action: str) -> Step:
        del self.left[0]
        return super().step(action)

    def expert(self) -> str:
        return self.left[0] if self.left else "Done."


def play(chat: Chat, text: str) -> Trajectory:
    assignment = Assignment(Task(IMITATOR, 0, {"text": text}), Key("run", 0, 0), "expert", 1, source="fresh")
    [trajectory] = collect([assignment], {}, chat, ROOMY)
    assert trajectory.failure is None
    return trajectory


def structure(chat: Chat, trajectory: Trajectory) -> list[list[int]]:
    """The special tokens of each segment, in order."""
    special = [i for i, token in chat.tokenizer.added_tokens_decoder.items() if token.special]
    return [segment.tokens_T[np.isin(segment.tokens_T, special)].tolist() for segment in trajectory.segments]


@pytest.fixture(autouse=True)
def _registered() -> Any:
    gymnasium.register(IMITATOR, entry_point=f"{__name__}:Imitator")
    yield
    del gymnasium.registry[IMITATOR]


@pytest.mark.parametrize("name", [name for name in CASES if name in FAMILIES])
def test_special_text_of_tools_never_becomes_special_tokens(name: str) -> None:
    chat = chat_of(name)
    specials = [token.content for token in tokenizer_of(name).added_tokens_decoder.values() if token.special]
    hostile, benign = play(chat, " ".join([*specials, MARKS])), play(chat, "a")
    assert [len(turn.errors) for turn in hostile.turns] == [0, 0, 1, 1, 0, 1, 1, 1]
    assert len(hostile.turns) == len(benign.turns) == 8
    assert structure(chat, hostile) == structure(chat, benign)
    told = "".join(message["content"] for turn in hostile.turns for message in turn.observations)
    assert all(special in told for special in specials)


@pytest.mark.parametrize("name", ["nemotron_3_nano", "qwen3_8", "qwen3"])
def test_keys_of_schemas_complete_no_special_token(name: str) -> None:
    """A template that writes ``<key>`` for a key of another program's schema makes ``<|im_end|>`` of ``|im_end|``."""
    chat = chat_of(name)
    ids = [i for i, token in chat.tokenizer.added_tokens_decoder.items() if token.special or token.content in MARKS]

    def shown(key: str) -> list[int]:
        odd = {key: "x", "type": "object", "properties": {key: {"type": "string", key: key}, "b": {key: [key]}}}
        schema = {"type": "function", "function": {"name": "look", "description": "Look.", key: key, "parameters": odd}}
        return chat.prompt([{"role": "user", "content": "Go on."}], [schema])

    for special in ("<|im_end|>", "<|im_start|>", "</tool_response>"):
        for key in (special[1:-1], special[:-1], special[1:], f"a{special[:-1]}", f"{special[1:]}a"):
            tokens = shown(key)
            assert [i for i in tokens if i in ids] == [i for i in shown("zebra") if i in ids]
            assert key in chat.tokenizer.decode(tokens, skip_special_tokens=False)
    assert shown("plain") == chat.tokenizer.encode(chat.tokenizer.decode(shown("plain")), add_special_tokens=False)


@pytest.mark.parametrize("name", ["nemotron_3_nano", "qwen3_5_think", "qwen3_8", "qwen3", "glm4moe"])
def test_names_in_calls_complete_no_special_token(name: str) -> None:
    """A template that writes ``<function=name>`` makes ``<|im_end|>`` of a name that ends in ``<|im_end|``."""
    chat = chat_of(name)
    asked: list[Message] = [{"role": "user", "content": "Go on."}]
    ids = [i for i, token in chat.tokenizer.added_tokens_decoder.items() if token.special]

    def shown(action: str) -> list[int]:
        past: list[Message] = [*asked, chat.message(action), {"role": "tool", "name": "look", "content": "Nothing."}]
        return [i for i in [*chat.write(asked, action), *chat.prompt(past)] if i in ids]

    for special in [token.content for token in chat.tokenizer.added_tokens_decoder.values() if token.special]:
        for odd in (special[:-1], f"a{special[:-1]}", special):
            for action in (call(odd, a="b"), call("look", **{odd: "b"}), call("look", a=odd)):
                assert shown(action) == shown(call("look", a="b"))
                assert chat.read(chat.write(asked, action)).canonical == action
