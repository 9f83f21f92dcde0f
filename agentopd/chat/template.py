"""A tokenizer's chat template: conversations to text, text to token ids, and where an assistant's turn ends."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from agentopd.chat.fallbacks import CALLS, HELLO, OTHER, PROBE, called, find_ways
from agentopd.chat.guard import Guard
from agentopd.chat.thinking import THOUGHT_CLOSE, THOUGHT_OPEN, find_thinking
from agentopd.errors import ConfigError
from agentopd.tooling.action import CLOSE, OPEN, brief
from agentopd.types import Message

REFUSALS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, RecursionError)
"""What templates raise on a conversation that they do not take."""
MODELS_OWN = (THOUGHT_OPEN, THOUGHT_CLOSE, OPEN, CLOSE)
"""Marks that a model writes itself, so contents hold them as they are."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What closes an assistant's turn."""

    closing: str
    """A special string right before the end; most templates have none."""
    usual: str
    """The special string that ends a turn. Where the next message's own first string does, that of a user's message."""
    after_calls: str
    """The same after a turn with calls that the template writes."""
    open: bool
    """Whether the end belongs to the next message, so that a conversation that ends with a turn does not show it."""
    filler: str
    """What the template writes behind the end where nothing follows."""

    @property
    def all(self) -> tuple[str, ...]:
        """Every string that ends a turn."""
        return tuple(dict.fromkeys((self.usual, self.after_calls)))


LATEST = 256
"""Episodes whose tool schemas are kept guarded."""
SEEN = 64
"""Characters that are looked at before and behind a text of a schema."""
_ODD = {PROBE: PROBE, "type": "string", "description": PROBE, "enum": [PROBE], "default": PROBE}
ODD_SCHEMA: Mapping[str, Any] = {
    PROBE: PROBE,
    "type": "function",
    "function": {
        PROBE: PROBE,
        "name": PROBE,
        "description": PROBE,
        "parameters": {
            PROBE: PROBE,
            "type": "object",
            "properties": {PROBE: _ODD, OTHER: {"type": "object", PROBE: [PROBE], "properties": {PROBE: _ODD}}},
            "required": [PROBE],
        },
    },
}
"""With a word wherever another program's schema may have text of its own."""


class Template:
    """Renders conversations as the tokenizer's own chat template does. Rendered text is guarded: see :class:`Guard`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kwargs: Mapping[str, Any], call_format: str | None) -> None:
        """Tries the template on small conversations.

        Raises:
            ConfigError: The tokenizer has no chat template, it renders no conversation, or no special token ends an assistant's
                turn in it.
        """
        if not tokenizer.is_fast or not tokenizer.chat_template:
            missing = "chat template" if tokenizer.is_fast else "fast implementation"
            raise ConfigError(
                f"tokenizer {tokenizer.name_or_path!r} has no {missing}; use an instruction-tuned model, or set tokenizer.chat_template"
            )
        self.tokenizer = tokenizer
        self._kwargs = dict(kwargs)
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._specials = sorted({*special, *tokenizer.all_special_tokens}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, self._specials)) or r"(?!)")
        self.guard = self._schemas = self._guard(self._specials)
        self._latest: dict[int, tuple[object, list[Any]]] = {}
        ways = find_ways(self._try, call_format)
        if ways is None:
            raise self._hopeless()
        self.ways = ways
        self.ends = self._find_ends()
        self.thinking = find_thinking(self._try, ways, str(tokenizer.chat_template), self._special)
        strings = [*self._specials, *self._structure()]
        self.guard = self._guard(strings)
        self._schemas = self._guard(strings, self._around_schemas())
        self._latest.clear()  # guarded for fewer strings

    def _guard(self, strings: Sequence[str], around: Sequence[tuple[str, str]] = ()) -> Guard:
        """Keeps these strings text, and what the tokenizer's normaliser makes of others."""
        normaliser = self.tokenizer.backend_tokenizer.normalizer
        if normaliser is None:
            return Guard(strings, around=around)
        added = self.tokenizer.added_tokens_decoder.values()
        return Guard(
            strings,
            normaliser.normalize_str,
            [token.content for token in added if token.normalized and token.content in strings],
            around,
        )

    def _around_schemas(self) -> list[tuple[str, str]]:
        """What the template puts around the texts of tool schemas: some write ``<key>`` for a key."""
        if not self.ways.tools:
            return []
        text = self._try([HELLO], [ODD_SCHEMA]) or ""
        return [
            (text[max(one.start() - SEEN, 0) : one.start()], text[one.end() : one.end() + SEEN])
            for one in re.finditer(PROBE, text)
        ]

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], generate: bool = False) -> str:
        """The text of a conversation, with the generation prompt if ``generate``.

        What the template does not take is put to it in another way: see :class:`agentopd.chat.fallbacks.Ways`.

        Raises:
            ConfigError: The template refuses the conversation.
        """
        try:
            return self._apply(*self.ways.adapt(messages, tools), generate)
        except REFUSALS as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ConfigError(
                f"the chat template of {self.tokenizer.name_or_path!r} refuses a conversation of {roles or 'no messages'}: {error}; "
                "use a tokenizer whose template takes these roles"
            ) from error

    def encode(self, text: str) -> list[int]:
        """The ids of rendered text that starts a conversation."""
        first, *rest = self.guard.pieces(text)
        return self._ids(first) + [i for piece in rest for i in self._ids_after(piece, self.ends.usual)]

    def encode_after(self, text: str, end: str | None = None) -> list[int]:
        """The ids of rendered text that stands right after the end of a turn, the usual one or ``end``."""
        end = end or self.ends.usual
        return [i for piece in self.guard.pieces(text) for i in self._ids_after(piece, end)]

    def id_of(self, special: str) -> int:
        """The id of a special string."""
        return self._ids(special)[0]

    def content_end(self, text: str) -> int | None:
        """Where what was said in the assistant's turn that closes the rendered ``text`` ends, right before the end of the turn.

        ``None`` if something else closes the text.
        """
        if self.ends.open:
            return len(text)
        for end in self.ends.all:
            start = text.rfind(self.ends.closing + end)
            filler = text[start + len(self.ends.closing + end) :]
            if start >= 0 and (filler == self.ends.filler or not filler.strip()):
                return start
        return None

    def end_at(self, text: str) -> str | None:
        """The end of a turn that ``text`` starts with, closing string included."""
        ends = (self.ends.closing + end for end in self.ends.all)
        return next((end for end in ends if text.startswith(end)), None)

    def turn(self, messages: Sequence[Message], message: Message, tools: Sequence[Mapping[str, Any]]) -> str | None:
        """What the template renders for ``message`` after the generation prompt, up to the end of the turn.

        ``None`` where the rendering does not continue the prompt.
        """
        prompt, whole = self.render(messages, tools, generate=True), self.render([*messages, message], tools)
        end = self.content_end(whole)
        return whole[len(prompt) : end] if end is not None and whole.startswith(prompt) and end >= len(prompt) else None

    def _apply(self, messages: Sequence[Any], tools: Sequence[Mapping[str, Any]], generate: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                self.guard.apply(messages),
                tools=self._guarded(tools),
                add_generation_prompt=generate,
                tokenize=False,
                **self._kwargs,
            )
        )

    def _guarded(self, tools: Sequence[Mapping[str, Any]]) -> list[Any] | None:
        """Guarded schemas. Those of the latest episodes are kept: they stay the same from turn to turn, and are long."""
        if not tools:
            return None
        key = id(tools)
        if key not in self._latest or self._latest[key][0] is not tools:
            self._latest[key] = (tools, self._schemas.apply(tools))
            if len(self._latest) > LATEST:
                del self._latest[next(iter(self._latest))]
        return self._latest[key][1]

    def _try(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), generate: bool = False
    ) -> str | None:
        """The rendering, or ``None`` if the template refuses."""
        try:
            return self._apply(messages, tools, generate)
        except REFUSALS:
            return None

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _ids_after(self, text: str, end: str) -> list[int]:
        """Tokenised behind an end of turn: no space is put in front, and white space is stripped if that token strips it."""
        return self._ids(end + text)[1:] if text else []

    def _hopeless(self) -> ConfigError:
        try:
            self._apply([HELLO, {"role": "assistant", "content": PROBE}], (), generate=False)
            reason = "it does not show what was said"
        except REFUSALS as error:
            reason = brief(str(error), 200)
        return ConfigError(
            f"the chat template of {self.tokenizer.name_or_path!r} cannot render a user's message and its answer: {reason}; set "
            "tokenizer.chat_template to one that can, or template_kwargs to what it asks for"
        )

    def _find_ends(self) -> Ends:
        """The special strings right behind what an assistant said, those that stay when a user's message follows."""
        tail, following = self._behind(()), self._behind([HELLO])
        found = self._special.search(tail)
        if found is None:
            return self._open_ends(tail, following)
        closing = ""
        while (again := self._special.match(tail, found.end())) and following.startswith(tail[: again.end()]):
            closing, found = closing + found[0], again
        filler = tail[found.end() :]
        turn = (self._try([HELLO, called(CALLS[:1])]) or "").removesuffix(filler).rstrip() if self.ways.calls else ""
        after_calls = next((special for special in self._specials if turn.endswith(special)), found[0])
        return Ends(closing, found[0], after_calls, False, filler)

    def _open_ends(self, tail: str, following: str) -> Ends:
        """Turns that the next message ends."""
        answer: Message = {"role": "tool", "name": OTHER, "content": OTHER}
        found, after = (self._special.match(text) for text in (following, self._behind([answer])))
        if tail or found is None:
            raise ConfigError(
                f"the chat template of {self.tokenizer.name_or_path!r} ends an assistant's turn with {tail!r}, which holds no special token; "
                "end it with one in tokenizer.chat_template (and register it with tokenizer.add_special_tokens)"
            )
        return Ends("", found[0], (after or found)[0], True, "")

    def _behind(self, observations: Sequence[Message]) -> str:
        """What is written behind an answer that ``observations`` follow."""
        messages: list[Message] = [HELLO, {"role": "assistant", "content": PROBE}, *observations]
        return (self._try(*self.ways.adapt(messages, ())) or "").rpartition(PROBE)[2]

    def _structure(self) -> list[str]:
        """Tokens that are no special ones, but that the template marks messages with: some call ``<|User|>`` an ordinary token."""
        conversation: list[Message] = [
            HELLO, {"role": "assistant", "content": OTHER}, {"role": "tool", "name": OTHER, "content": OTHER}
        ]  # fmt: skip
        text = self._try(*self.ways.adapt(conversation, ()), generate=True) or ""
        text += self._try(*self.ways.adapt([HELLO], ()), generate=True) or ""
        added = (token.content for token in self.tokenizer.added_tokens_decoder.values() if not token.special)
        return [content for content in added if content in text and content.strip() and content not in MODELS_OWN]
