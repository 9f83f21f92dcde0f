"""Messages to tokens and back, so that what a model produced is never encoded again.

A conversation's first prompt is tokenised once. After that only the text that the template adds behind an assistant's turn is,
and it is appended to the tokens that the model itself produced. How that went is the turn's drift:

- ``clean``: the model ended its turn, and the template's next text follows.
- ``realigned``: the model was cut at its limit, so the end of the turn is put in as context.
- ``forked``: the template rewrites the past (many drop earlier thinking), so a whole new prompt starts a new segment.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from transformers import PreTrainedTokenizerBase

from agentopd.chat.template import Template
from agentopd.errors import ConfigError
from agentopd.tooling.action import OPEN, ParsedAction, parse_action, render_action
from agentopd.types import Message, ToolCall

Tools: TypeAlias = Sequence[Mapping[str, Any]] | None
"""Tool schemas, as chat templates take them: ``ToolSet.schemas``."""

FORMATS: Mapping[str, Callable[[str], ParsedAction]] = {"hermes": parse_action}
"""How models write tool calls; each reads a model's text and never raises."""

THOUGHT_OPEN, THOUGHT_CLOSE = "<think>", "</think>"
DEEPEST = 32
"""Nesting of arguments up to which templates get calls as data; they walk it recursively, and a model can write any depth."""


@dataclass(frozen=True, slots=True)
class Action:
    """What a policy's tokens say."""

    text: str
    """Decoded verbatim, without the final end of turn."""
    canonical: str
    """What the environment reads: canonical action text without thinking, or, where a call is malformed, what was written."""
    calls: tuple[ToolCall, ...]
    content: str
    """The text beside the calls, without thinking."""
    stopped: bool
    """Whether the model ended its turn itself."""
    message: Message
    """The assistant message that later renderings of the conversation read."""


@dataclass(frozen=True, slots=True)
class Extension:
    """Context tokens that follow an action's tokens or, if ``forked``, replace everything before the next one."""

    tokens: list[int]
    drift: Literal["clean", "realigned", "forked"]


class Chat:
    """One tokenizer's way to write conversations: its chat template, with ``template_kwargs`` passed to it.

    Text in messages and schemas that imitates special tokens stays text. Tools that a template does not show are described in
    the system message; calls that it does not write in ``call_format`` stand in the content of messages.

    Not covered: tool calls in a model's other native formats (add them to ``FORMATS``).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template_kwargs: Mapping[str, Any] | None = None,
        call_format: str = "hermes",
    ) -> None:
        """Tries the template on small conversations.

        Raises:
            ConfigError: The tokenizer has no chat template, no special token ends an assistant's turn in it, or the format is
                unknown.
        """
        if call_format not in FORMATS:
            raise ConfigError(f"call_format={call_format!r} is not known; there are: {', '.join(FORMATS)}")
        self.tokenizer = tokenizer
        self._parse = FORMATS[call_format]
        self._template = Template(tokenizer, template_kwargs or {})
        self._thinks = THOUGHT_CLOSE in str(tokenizer.chat_template)
        self._size = len(tokenizer)
        self._native = tuple(self._writes_calls(count) for count in (1, 2))

    @property
    def end_of_turn(self) -> int:
        """The id that ends an assistant's turn."""
        return self._template.end_of_turn

    @cached_property
    def longest_token(self) -> int:
        """No token stands for more characters of text than this, so n characters take n / this many tokens or more."""
        return max(map(len, self.tokenizer.get_vocab()))

    def prompt(self, messages: Sequence[Message], tools: Tools = None) -> list[int]:
        """The tokens of a conversation, the generation prompt included.

        Raises:
            ConfigError: The template refuses the conversation.
        """
        return self._template.encode(self._template.render(messages, tools or (), generate=True))

    def read(self, tokens: Sequence[int]) -> Action:
        """What a policy's tokens say. Never raises; ids that the tokenizer does not have are left out of the text."""
        stopped = len(tokens) > 0 and tokens[-1] == self.end_of_turn
        known = [int(i) for i in (tokens[:-1] if stopped else tokens) if 0 <= i < self._size]
        text = str(self.tokenizer.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        thought, said = self._split_thought(text)
        parsed = self._parse(said)
        if parsed.problems:
            return Action(text, said, parsed.calls, parsed.content, stopped, {"role": "assistant", "content": text})
        canonical = render_action(parsed.content, parsed.calls)
        message = self._message(thought, parsed)
        return Action(text, canonical, parsed.calls, parsed.content, stopped, message)

    def write(self, messages: Sequence[Message], canonical: str, tools: Tools = None) -> list[int]:
        """The tokens that a model would produce for an action given as text, the end of the turn included.

        They are the template's own rendering of the action if that says the same, else the text itself.

        Args:
            messages: The conversation before the action.
            canonical: The action.
            tools: Schemas of the tools.
        """
        parsed = parse_action(canonical)
        message = self._message("", parsed) if not parsed.problems else _said(canonical)
        turn = self._template.turn(messages, message, tools or ())
        tokens = self._template.encode_after(turn or "")
        if tokens[-1:] == [self.end_of_turn] and self.read(tokens).calls == parsed.calls:
            return tokens
        return [*self._template.encode_after(self._template.guard.apply(canonical)), self.end_of_turn]

    def extend(
        self, messages: Sequence[Message], action: Action, observations: Sequence[Message], tools: Tools = None
    ) -> Extension:
        """The tokens from the end of an action to the next generation prompt, or a whole new prompt.

        Args:
            messages: The conversation before the action.
            action: What :meth:`read` made of the action's tokens.
            observations: The messages that answer it.
            tools: Schemas of the tools.

        Raises:
            ConfigError: The template refuses the conversation.
        """
        past = [*messages, action.message]
        before = self._template.render(past, tools or ())
        after = self._template.render([*past, *observations], tools or (), generate=True)
        end = self._template.turn_end(before)
        if end is None or not after.startswith(before[:end]):
            return Extension(self._template.encode(after), "forked")
        added = self._template.encode_after(after[end:])
        return Extension(added, "clean") if action.stopped else Extension([self.end_of_turn, *added], "realigned")

    def _split_thought(self, text: str) -> tuple[str, str]:
        """The thinking that opens a turn, marks and newlines included, and the rest; only where the template knows thinking."""
        thought, mark, said = text.partition(THOUGHT_CLOSE)
        opened = text.lstrip().startswith(THOUGHT_OPEN) or OPEN not in thought
        if not (self._thinks and mark and opened):
            return "", text
        said = said.lstrip("\n")
        return text[: len(text) - len(said)], said

    def _message(self, thought: str, parsed: ParsedAction) -> Message:
        """The assistant message, its calls in the form that the template writes, else as text in the content."""
        native = self._native[len(parsed.calls) > 1] and all(_depth(call.arguments) <= DEEPEST for call in parsed.calls)
        if parsed.calls and not native:
            return _said(thought + render_action(parsed.content, parsed.calls))
        message = _said(thought + parsed.content)
        if parsed.calls:
            message["tool_calls"] = [_openai(call) for call in parsed.calls]
        return message

    def _writes_calls(self, count: int) -> bool:
        """Whether the template writes ``count`` calls in one turn so that they can be read back."""
        calls = tuple(ToolCall(f"tool_{i}", {"x": i}) for i in range(count))
        message: Message = {"role": "assistant", "content": "", "tool_calls": [_openai(call) for call in calls]}
        return self._parse(self._template.shows(message)).calls == calls


def _said(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _openai(call: ToolCall) -> dict[str, Any]:
    return {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}


def _depth(value: Any) -> int:
    """How deeply plain data is nested; a string or number has depth 1."""
    depth, layer = 0, [value]
    while layer:
        depth += 1
        layer = [inner for item in layer for inner in _inside(item)]
    return depth


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()
