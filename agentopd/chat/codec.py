"""Messages to tokens and back, so that what a model produced is never encoded again.

A conversation's first prompt is tokenised once. After that only the text that the template adds behind an assistant's turn is,
and it is appended to the tokens that the model itself produced. How that went is the turn's drift:

- ``clean``: the model ended its turn, and the template's next text follows.
- ``realigned``: the model was cut at its limit, so the end of the turn is put in as context.
- ``forked``: the template rewrites the past (many drop earlier thinking), so a whole new prompt starts a new segment.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from agentopd.chat.fallbacks import CALLS, HELLO, OTHER, SCHEMAS
from agentopd.chat.formats import FORMATS, HERMES, Tools, openai
from agentopd.chat.template import Template
from agentopd.chat.thinking import THOUGHT_CLOSE, THOUGHT_OPEN
from agentopd.errors import ConfigError
from agentopd.tooling.action import ParsedAction, parse_action, render_action
from agentopd.types import Message, ToolCall

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
    thought: str = ""
    """The thinking that opens the text, marks included."""
    end: int | None = None
    """The id that ended the turn, if it is stopped."""


@dataclass(frozen=True, slots=True)
class Extension:
    """Context tokens that follow an action's tokens or, if ``forked``, replace everything before the next one."""

    tokens: list[int]
    drift: Literal["clean", "realigned", "forked"]


class Chat:
    """One tokenizer's way to write conversations: its chat template, with ``template_kwargs`` passed to it.

    Text in messages and schemas that imitates special tokens stays text. What the template does not take is put to it in another
    way, which :meth:`describe` tells.

    Not covered: tool calls in formats that are not in ``FORMATS``; they are written as Hermes blocks.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template_kwargs: Mapping[str, Any] | None = None,
        call_format: str | None = None,
    ) -> None:
        """Tries the template on small conversations.

        Args:
            tokenizer: A fast one with a chat template.
            template_kwargs: What the template reads, such as ``enable_thinking``.
            call_format: A key of ``FORMATS``; by default the one that the template writes, or else Hermes.

        Raises:
            ConfigError: The tokenizer has no chat template, it renders no conversation, no special token ends an assistant's turn
                in it, or the format is unknown.
        """
        if call_format is not None and call_format not in FORMATS:
            raise ConfigError(
                f"call_format={call_format!r} is not known; there are: {', '.join(FORMATS)}; leave it out to take the template's own"
            )
        self.tokenizer = tokenizer
        self.template_kwargs = dict(template_kwargs or {})
        self._template = Template(tokenizer, self.template_kwargs, call_format)
        self._thinking = self._template.thinking
        self._size = len(tokenizer)
        self._ends = {self._template.id_of(end): end for end in self._template.ends.all}

    @property
    def end_of_turn(self) -> int:
        """The id that ends an assistant's turn; where several do, the one after which a user speaks."""
        return self._template.id_of(self._template.ends.usual)

    @property
    def end_after_calls(self) -> int:
        """The id that ends an assistant's turn with calls."""
        return self._template.id_of(self._template.ends.after_calls)

    @property
    def ends_of_turn(self) -> frozenset[int]:
        """Every id that ends an assistant's turn."""
        return frozenset(self._ends)

    @cached_property
    def closing(self) -> tuple[int, ...]:
        """The ids that stand right before the end of a turn; of most templates none."""
        return tuple(self._template.encode_after(self._template.ends.closing))

    def before_end(self, tokens: Sequence[int]) -> int:
        """How many tokens of a turn stand before what ends it, closing marks included; all of a turn that was cut."""
        if not len(tokens) or tokens[-1] not in self._ends:
            return len(tokens)
        size, closing = len(tokens) - 1, self.closing
        closed = bool(closing) and tuple(tokens[max(size - len(closing), 0) : size]) == closing
        return size - len(closing) if closed else size

    @property
    def falls_back(self) -> bool:
        """Whether something stands in for what the template lacks: see :meth:`describe`."""
        return self._template.ways.fall_back

    @cached_property
    def forks(self) -> bool:
        """Whether even a plain turn with a call forks: the template is not prefix-preserving, and each turn starts a new segment."""
        action = self.read(self.write([HELLO], render_action("", CALLS[:1]), SCHEMAS), SCHEMAS)
        answer: Message = {"role": "tool", "name": CALLS[0].name, "content": OTHER}
        return self.extend([HELLO], action, [answer], SCHEMAS).drift == "forked"

    def describe(self) -> str:
        """How tools, calls and observations are put to the template, in one sentence."""
        return self._template.ways.describe()

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

    def whole(self, messages: Sequence[Message], tools: Tools = None) -> list[int]:
        """The tokens of a conversation as it stands, without a generation prompt.

        Raises:
            ConfigError: The template refuses the conversation.
        """
        return self._template.encode(self._template.render(messages, tools or ()))

    def message(self, canonical: str) -> Message:
        """The assistant message of an action given as text, its calls as the template takes them."""
        return self._message("", parse_action(canonical), canonical)

    def read(self, tokens: Sequence[int], tools: Tools = None) -> Action:
        """What a policy's tokens say. Never raises; ids that the tokenizer does not have are left out of the text.

        Args:
            tokens: What the policy wrote.
            tools: Their schemas, which some formats need to tell numbers from text.
        """
        end = int(tokens[-1]) if len(tokens) and tokens[-1] in self._ends else None
        stopped = end is not None
        known = [int(i) for i in (tokens[:-1] if stopped else tokens) if 0 <= i < self._size]
        text = str(self.tokenizer.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        thought, said = self._thinking.split(text)
        said = said.removesuffix(self._template.ends.closing)
        written = FORMATS[self._template.ways.call_format](said, tools)
        parsed = parse_action(written)
        if parsed.problems:
            message = self._thinking.message(thought, said)
            return Action(text, written, parsed.calls, parsed.content, stopped, message, thought, end)
        canonical = render_action(parsed.content, parsed.calls)
        native = self._template.ways.call_format == HERMES or not parse_action(said).calls
        message = self._message(thought, parsed, said, native)
        return Action(text, canonical, parsed.calls, parsed.content, stopped, message, thought, end)

    def write(self, messages: Sequence[Message], canonical: str, tools: Tools = None, thought: str = "") -> list[int]:
        """The tokens that a model would produce for an action given as text, the end of the turn included.

        They are the template's own rendering of the action if that says the same, else the text itself.

        Args:
            messages: The conversation before the action.
            canonical: The action.
            tools: Schemas of the tools.
            thought: The thinking that opens the turn, marks included; said aloud where the template knows no thinking.
        """
        if not self._thinking.close:
            canonical, thought = thought + canonical, ""
        parsed = parse_action(canonical)
        for message in (self._message(thought, parsed, canonical), self._thinking.message(thought, canonical)):
            turn = self._template.turn(messages, message, tools or ())
            tokens = [] if turn is None else self._ended(turn, parsed, message)
            if tokens and _same(self.read(tokens, tools), parsed):
                return tokens
        return self._ended(self._template.guard.apply(thought + canonical), parsed, _said(canonical))

    def _ended(self, turn: str, parsed: ParsedAction, message: Message) -> list[int]:
        """The tokens of a turn, with the end that the template, or the message that will follow, gives it."""
        ends = self._template.ends
        calls = bool(parsed.calls) if ends.open else "tool_calls" in message
        end = ends.after_calls if calls else ends.usual
        return [*self._template.encode_after(turn), *self.closing, self._template.id_of(end)]

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
        at = self._template.content_end(before)
        end = self._template.end_at(after[at:]) if at is not None else None
        if at is None or end is None or not after.startswith(before[:at]):
            return Extension(self._template.encode(after), "forked")
        if self._thinking.close and self._forgets(messages, action, before[:at], tools):
            return Extension(self._template.encode(after), "forked")
        return self._appended(action, end, after[at + len(end) :]) or Extension(self._template.encode(after), "forked")

    def _appended(self, action: Action, end: str, text: str) -> Extension | None:
        """The end of the turn where it is missing, and what follows it; ``None`` if the model ended its turn with another one."""
        closing = self._template.ends.closing
        last = end.removeprefix(closing)
        added = self._template.encode_after(text, last)
        if action.stopped:
            return Extension(added, "clean") if action.end in (None, self._template.id_of(last)) else None
        missing = [] if closing and action.text.endswith(closing) else self._template.encode_after(closing)
        return Extension([*missing, self._template.id_of(last), *added], "realigned")

    def _forgets(self, messages: Sequence[Message], action: Action, rendered: str, tools: Tools) -> bool:
        """Whether the template drops what was thought, or adds to it, or to the marks that the prompt opened the turn with."""
        prompt = self._template.render(messages, tools or (), generate=True)
        if not rendered.startswith(prompt):
            return True
        shown = _squashed("".join(self._template.guard.pieces(rendered[len(prompt) :])))
        if "tool_calls" not in action.message:
            return shown != _squashed(action.text.removesuffix(self._template.ends.closing))
        thought = _squashed(action.thought)
        return not shown.startswith(thought) or (not thought and shown.startswith((THOUGHT_OPEN, THOUGHT_CLOSE)))

    def _message(self, thought: str, parsed: ParsedAction, written: str, native: bool = True) -> Message:
        """The assistant message, its calls in the form that the template writes, else what was ``written`` as the content.

        The latter where the calls are not in that form (``native``), or it cannot hold them.
        """
        if not parsed.calls or parsed.problems:
            return self._thinking.message(thought, written if parsed.problems else parsed.content)
        plain = all(_plain(call) for call in parsed.calls)
        if not (native and plain and self._template.ways.writes(parsed.calls, parsed.content)):
            return self._thinking.message(thought, written)
        message = self._thinking.message(thought, parsed.content)
        message["tool_calls"] = [openai(call) for call in parsed.calls]
        return message


def _said(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _squashed(text: str) -> str:
    """Without white space, which many templates trim."""
    return "".join(text.split())


def _same(action: Action, parsed: ParsedAction) -> bool:
    """Whether an action says what was to be written; one that holds a malformed call is not compared further."""
    if action.calls != parsed.calls:
        return False
    return bool(parsed.problems) or parsed.content.strip() in action.content  # some templates write more before it


def _plain(call: ToolCall) -> bool:
    """Whether templates can be given a call as data: many put names between quotes as they are."""
    return json.dumps(call.name, ensure_ascii=False) == f'"{call.name}"' and _depth(call.arguments) <= DEEPEST


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
