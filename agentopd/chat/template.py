"""A tokenizer's chat template: conversations to text, text to token ids, and where an assistant's turn ends."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from agentopd.errors import ConfigError
from agentopd.types import Message

PROBE = "Kestrel"
"""A word that no template contains."""

TOOLS = """You can call these tools, each described by a JSON schema:
{schemas}
To call one, write
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>"""
"""Told in the system message where a template shows no tools."""


class Guard:
    """Keeps text that imitates special tokens text.

    Templates paste the contents of messages into one string, where an observation's ``<|im_end|>`` would end the turn. So every
    special string in a content is broken by a mark before rendering; rendered text is tokenised in pieces, cut at the marks.
    The mark is printable, for templates that print a ``repr``. A mark in the content itself is escaped.
    """

    MARK, LITERAL, BREAK = "⧟", "⧟.", "⧟,"

    def __init__(self, specials: Sequence[str]) -> None:
        """``specials`` are the strings of special tokens; those of one character cannot be broken and are left out."""
        tails: dict[str, list[str]] = {}
        for special in specials:
            if len(special) > 1:
                tails.setdefault(special[0], []).append(re.escape(special[1:]))
        heads = (f"{re.escape(head)}(?={'|'.join(tail)})" for head, tail in tails.items())
        self._first = re.compile("|".join(heads) or r"(?!)")
        self._text = lru_cache(maxsize=8192)(self._guard)

    def apply(self, value: Any) -> Any:
        """A copy of plain data with every string guarded, keys included."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self.apply(key): self.apply(item) for key, item in value.items()}
        return [self.apply(item) for item in value] if isinstance(value, list | tuple) else value

    def _guard(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode()  # half surrogates, which no tokenizer takes
        return self._first.sub(lambda match: match[0] + self.BREAK, text.replace(self.MARK, self.LITERAL))

    def pieces(self, text: str) -> list[str]:
        """Guarded text, cut where special strings were broken, as it was before."""
        return [piece.replace(self.LITERAL, self.MARK) for piece in text.split(self.BREAK)]


class Template:
    """Renders conversations as the tokenizer's own chat template does. Rendered text is guarded: see :class:`Guard`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kwargs: Mapping[str, Any]) -> None:
        """Tries the template on small conversations.

        Raises:
            ConfigError: The tokenizer has no chat template, or no special token ends an assistant's turn in it.
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
        self.guard = Guard(self._specials)
        self.end_text = self._find_end()
        self.end_of_turn = self._ids(self.end_text)[0]
        self._shows_tools = self._try_tools()

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], generate: bool = False) -> str:
        """The text of a conversation, with the generation prompt if ``generate``.

        Tools that the template does not show are described in the system message.

        Raises:
            ConfigError: The template refuses the conversation.
        """
        if tools and not self._shows_tools:
            messages, tools = _with_tools(messages, tools), ()
        try:
            return self._apply(messages, tools, generate)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ConfigError(
                f"the chat template of {self.tokenizer.name_or_path!r} refuses a conversation of {roles or 'no messages'}: {error}; "
                "use a tokenizer whose template takes these roles"
            ) from error

    def _apply(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], generate: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                self.guard.apply(messages),
                tools=self.guard.apply(tools) or None,
                add_generation_prompt=generate,
                tokenize=False,
                **self._kwargs,
            )
        )

    def encode(self, text: str) -> list[int]:
        """The ids of rendered text that starts a conversation."""
        first, *rest = self.guard.pieces(text)
        return self._ids(first) + [i for piece in rest for i in self._ids_after(piece)]

    def encode_after(self, text: str) -> list[int]:
        """The ids of rendered text that stands right after the end of a turn."""
        return [i for piece in self.guard.pieces(text) for i in self._ids_after(piece)]

    def turn_end(self, text: str) -> int | None:
        """Where the assistant's turn that closes the rendered ``text`` ends; ``None`` if something else closes it."""
        end = text.rfind(self.end_text) + len(self.end_text)
        return end if end >= len(self.end_text) and not text[end:].strip() else None

    def turn(self, messages: Sequence[Message], message: Message, tools: Sequence[Mapping[str, Any]]) -> str | None:
        """What the template renders for ``message`` after the generation prompt, the end of the turn included.

        ``None`` where the rendering does not continue the prompt.
        """
        prompt, whole = self.render(messages, tools, generate=True), self.render([*messages, message], tools)
        end = self.turn_end(whole)
        return whole[len(prompt) : end] if end is not None and whole.startswith(prompt) and end > len(prompt) else None

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _ids_after(self, text: str) -> list[int]:
        """Tokenised behind an end of turn: no space is put in front, and white space is stripped if that token strips it."""
        return self._ids(self.end_text + text)[1:] if text else []

    def _find_end(self) -> str:
        whole = self._try([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": PROBE}])
        tail = "" if whole is None else whole.rpartition(PROBE)[2]
        found = re.search("|".join(map(re.escape, self._specials)) or r"(?!)", tail)
        if found is None:
            raise ConfigError(
                f"the chat template of {self.tokenizer.name_or_path!r} ends an assistant's turn with {tail!r}, which holds no special token; "
                "end it with one in tokenizer.chat_template (and register it with tokenizer.add_special_tokens)"
            )
        return found[0]

    def _try_tools(self) -> bool:
        parameters = {"type": "object", "properties": {"x": {"type": "integer", "description": "A number."}}}
        function = {"name": PROBE, "description": "A tool.", "parameters": parameters}
        tool = {"type": "function", "function": function}
        return PROBE in (self._try([{"role": "user", "content": "Hello"}], [tool]) or "")

    def _try(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str | None:
        """The rendering, or ``None`` if the template refuses."""
        try:
            return self._apply(messages, tools, generate=False)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError):
            return None

    def shows(self, message: Message) -> str:
        """What the template writes after a user's message for this answer; empty if it refuses."""
        whole = self._try([{"role": "user", "content": PROBE}, message])
        return "" if whole is None else whole.rpartition(PROBE)[2]


def _with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation with the tools described at the end of its system message."""
    described = TOOLS.format(schemas="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    told = bool(messages) and messages[0]["role"] == "system"
    content = f"{messages[0]['content']}\n\n{described}" if told else described
    return [{"role": "system", "content": content}, *messages[told:]]
