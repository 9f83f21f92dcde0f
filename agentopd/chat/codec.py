"""Messages to tokens and back, so that what a model produced is never encoded again.

A conversation's first prompt is tokenised once. After that only the text that the template adds behind an assistant's turn is,
and it is appended to the tokens that the model itself produced. How that went is the turn's drift:

- ``clean``: the model ended its turn, and the template's next text follows.
- ``realigned``: the model was cut at its limit, so the end of the turn is put in as context.
- ``forked``: the template rewrites the past (many drop earlier thinking), so a whole new prompt starts a new segment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from transformers import PreTrainedTokenizerBase

from agentopd.chat.arguments import Tools, is_plain
from agentopd.chat.budget import MARK_TOKENS, Budget, thought_size
from agentopd.chat.fallbacks import CALLS, HELLO, OTHER, PROBE, SCHEMAS
from agentopd.chat.formats import HERMES, known_format, openai, read, same, write
from agentopd.chat.template import Template
from agentopd.chat.thinking import THOUGHT_CLOSE, THOUGHT_OPEN, Thinking
from agentopd.chat.tokenizer import fingerprint
from agentopd.chat.turn import Action, Extension
from agentopd.errors import ConfigError
from agentopd.tooling.action import ParsedAction, parse_action, render_action
from agentopd.types import Message

PastThinking: TypeAlias = Literal["template", "kept", "dropped"]
"""What later prompts hold of what was thought: see ``past_thinking`` of a configuration."""


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
        past_thinking: PastThinking = "template",
    ) -> None:
        """Tries the template on small conversations.

        Args:
            tokenizer: A fast one with a chat template.
            template_kwargs: What the template reads, such as ``enable_thinking``.
            call_format: A key of ``FORMATS``; by default the one that the template writes, or else Hermes.
            past_thinking: Whether later prompts hold what was thought in ``<think>`` marks: as the template has it, ``kept`` (one that
                forgets it is refused), or ``dropped``.

        Raises:
            ConfigError: The tokenizer has no chat template, it renders no conversation, no special token ends an assistant's turn
                in it, the format is unknown, or it forgets thinking that is to be kept, or knows none that could be dropped.
        """
        if call_format is not None:
            try:
                known_format(call_format)
            except ValueError as error:
                raise ConfigError(f"call_format: {error}") from error
        self.tokenizer = tokenizer
        self.template_kwargs = dict(template_kwargs or {})
        self._template = Template(tokenizer, self.template_kwargs, call_format)
        self.call_format = call_format
        """The one that was set by hand."""
        self.past_thinking = past_thinking
        self._thinking = replace(self._template.thinking, dropped=past_thinking == "dropped")
        self._size = len(tokenizer)
        self._ends = {self._template.id_of(end): end for end in self._template.ends.all}
        if past_thinking == "dropped" and not self._thinking.close:
            raise ConfigError(
                f"past_thinking='dropped': the chat template of {tokenizer.name_or_path!r} knows no thinking, so there is nothing to drop; "
                "leave past_thinking out"
            )
        if past_thinking == "kept" and (when := self._forgotten()):
            raise ConfigError(
                f"past_thinking='kept': the chat template of {tokenizer.name_or_path!r} forgets what was thought {when}; set "
                "tokenizer.chat_template to one that keeps it (TRL ships some as *_training), template_kwargs to what makes it keep it, or "
                "past_thinking: template"
            )

    def __reduce__(self) -> tuple[type["Chat"], tuple[Any, ...]]:
        return type(self), (self.tokenizer, self.template_kwargs, self.call_format, self.past_thinking)

    def _forgotten(self) -> str | None:
        """When a turn that thinks starts a new segment, if it does."""
        if not self._thinking.close:
            return None
        opened = "" if self.opens_thought(self.prompt([HELLO])) else f"{THOUGHT_OPEN}\n"
        written = (
            f"{opened}{PROBE}\n{THOUGHT_CLOSE}\n\n{OTHER}"
            if self._thinking.kept
            else PROBE + self._thinking.close + OTHER
        )
        action = self.read(self._ended(written, ParsedAction(OTHER), _said(OTHER)))
        answers: list[Message] = [{"role": "tool", "name": OTHER, "content": OTHER}, HELLO]
        for answer, when in zip(answers, ("once a tool answers", "once a user speaks"), strict=True):
            if self.extend([HELLO], action, [answer]).drift == "forked":
                return when
        return None

    def opens_thought(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends with the mark that opens thinking."""
        return self._thinking.kept and self._text(prompt[-MARK_TOKENS:]).rstrip().endswith(THOUGHT_OPEN)

    def budget(self, prompt: Sequence[int], tokens: int) -> Budget:
        """What the turn behind a prompt may think: so many ``tokens``, then the thought is closed as the template closes one.

        Raises:
            ConfigError: The template knows no thinking in ``<think>`` marks.
        """
        return Budget(tokens, self._closes_thought, self.opens_thought(prompt), self._text)

    @cached_property
    def _closes_thought(self) -> tuple[int, ...]:
        if not self._thinking.kept:
            marks = f"marks thinking with {self._thinking.close!r}" if self._thinking.close else "knows no thinking"
            raise ConfigError(
                f"rollout.thinking_budget: the chat template of {self.tokenizer.name_or_path!r} {marks}, and only thinking in {THOUGHT_OPEN} marks "
                "can be given a budget; leave rollout.thinking_budget out"
            )
        opened = "" if self.opens_thought(self.prompt([HELLO])) else f"{THOUGHT_OPEN}\n"
        message = self._template.thinking.message(f"{opened}{PROBE}\n{THOUGHT_CLOSE}\n\n", OTHER)
        written = (self._template.turn([HELLO], message, ()) or "").partition(PROBE)[2].partition(OTHER)[0]
        return tuple(self._template.encode_after(written if THOUGHT_CLOSE in written else f"\n{THOUGHT_CLOSE}\n\n"))

    def thought_size(self, prompt: Sequence[int], tokens: Sequence[int]) -> int:
        """How many tokens of the turn behind a prompt are thinking in ``<think>`` marks, these included."""
        return thought_size(tokens, self.opens_thought(prompt), self._text) if self._thinking.kept else 0

    def _text(self, tokens: Sequence[int]) -> str:
        known = [int(i) for i in tokens if 0 <= i < self._size]
        return str(self.tokenizer.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False))

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

    @cached_property
    def vocabulary(self) -> str:
        """See :func:`fingerprint`."""
        return fingerprint(self.tokenizer)

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
        parsed = parse_action(canonical)
        return self._message("", parsed, self._own(parsed, None) or canonical)

    def read(self, tokens: Sequence[int], tools: Tools = None, prompt: Sequence[int] | None = None) -> Action:
        """What a policy's tokens say. Never raises; ids that the tokenizer does not have are left out of the text.

        Args:
            tokens: What the policy wrote.
            tools: Their schemas, which some formats need to tell numbers from text.
            prompt: The tokens before, or the last of them: whether they open a thought. Without them: as a conversation's first prompt does.
        """
        return self._read(tokens, tools, self._thinking.opened if prompt is None else self.opens_thought(prompt))

    def _read(self, tokens: Sequence[int], tools: Tools, opened: bool) -> Action:
        end = int(tokens[-1]) if len(tokens) and tokens[-1] in self._ends else None
        stopped = end is not None
        text = self._text(tokens[:-1] if stopped else tokens)
        thought, said = self._thinking.split(text, opened)
        said = said.removesuffix(self._template.ends.closing)
        written, parsed = read(self._template.ways.call_format, said, tools)
        if parsed.problems:
            message = self._thinking.message(thought, said)
            return Action(text, written, parsed.calls, parsed.content, stopped, message, thought, end)
        canonical = render_action(parsed.content, parsed.calls)
        native = self._template.ways.call_format == HERMES or not parse_action(said).calls
        message = self._message(thought, parsed, said, native)
        return Action(text, canonical, parsed.calls, parsed.content, stopped, message, thought, end)

    def write(self, messages: Sequence[Message], canonical: str, tools: Tools = None, thought: str = "") -> list[int]:
        """The tokens that a model would produce for an action given as text, the end of the turn included.

        They are the template's own rendering of the action if that says the same, else the text itself. A thought that the prompt opens
        is closed at once where there is none.

        Args:
            messages: The conversation before the action.
            canonical: The action.
            tools: Schemas of the tools.
            thought: The thinking that opens the turn, marks included; said aloud where the template knows no thinking.
        """
        drafts = False
        if not self._thinking.close:
            drafts = bool(parse_action(thought).calls)  # nobody made these calls: the text stands as it is
            canonical, thought = thought + canonical, ""
        parsed = parse_action(canonical)
        own = canonical if drafts else self._own(parsed, tools) or canonical
        thinking = self._template.thinking  # of the turn itself, whatever later prompts hold
        opened = self._opens(messages, tools)
        if thinking.kept and thought and not canonical and THOUGHT_CLOSE not in thought:  # it never ended
            text = thought.lstrip().removeprefix(THOUGHT_OPEN).removeprefix("\n") if opened else thought
            return self._ended(self._template.guard.apply(text), parsed, _said(text))
        open_ = opened and THOUGHT_CLOSE not in thought
        as_text = [thinking.message(thought, text) for text in dict.fromkeys((own, canonical))]
        rendered = [] if drafts else [self._message(thought, parsed, own, thinking=thinking)]
        for message in (*rendered, *as_text):
            turn = self._template.turn(messages, message, tools or ())
            tokens = [] if turn is None else self._ended(turn, parsed, message)
            closed = not open_ or THOUGHT_CLOSE in (turn or "")
            if tokens and closed and self._says(tokens, parsed, tools, opened):
                return tokens
        if open_:
            return self._without_thought(messages, parsed, own, tools)
        return self._ended(self._template.guard.apply(thought + own), parsed, _said(own))

    def _opens(self, messages: Sequence[Message], tools: Tools) -> bool:
        """As :meth:`opens_thought`, of the prompt that ``messages`` are."""
        if not self._thinking.kept:
            return False
        return self._template.render(messages, tools or (), generate=True).rstrip().endswith(THOUGHT_OPEN)

    def _without_thought(self, messages: Sequence[Message], parsed: ParsedAction, own: str, tools: Tools) -> list[int]:
        """The tokens of an action behind a prompt that opens a thought, where the template does not close it itself.

        They are what it writes with a thought, that one taken out; else the text itself, behind what closes one.
        """
        message = self._message(f"{PROBE}\n{THOUGHT_CLOSE}\n\n", parsed, own, thinking=self._template.thinking)
        turn = self._template.turn(messages, message, tools or ()) or ""
        tokens = self._ended(turn.removeprefix(PROBE), parsed, message) if turn.startswith(PROBE) else []
        if tokens and self._says(tokens, parsed, tools, opened=True):
            return tokens
        return [*self._closes_thought, *self._ended(self._template.guard.apply(own), parsed, _said(own))]

    def _own(self, parsed: ParsedAction, tools: Tools) -> str | None:
        """An action as text in the call format; ``None`` where that has no text for it."""
        return None if parsed.problems else write(self._template.ways.call_format, parsed, tools)

    def _says(self, tokens: Sequence[int], parsed: ParsedAction, tools: Tools, opened: bool) -> bool:
        """Whether tokens say what was to be written; of what holds a malformed call the calls alone are compared."""
        action = self._read(tokens, tools, opened)
        found = ParsedAction(action.content, action.calls)
        return found.calls == parsed.calls if parsed.problems else same(found, parsed)

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

    def _message(
        self, thought: str, parsed: ParsedAction, written: str, native: bool = True, thinking: Thinking | None = None
    ) -> Message:
        """The assistant message, its calls in the form that the template writes, else what was ``written`` as the content.

        The latter where the calls are not in that form (``native``), or it cannot hold them.
        """
        thinking = thinking or self._thinking
        if not parsed.calls or parsed.problems:
            return thinking.message(thought, written)
        plain = all(is_plain(call) for call in parsed.calls)
        if not (native and plain and self._template.ways.writes(parsed.calls, parsed.content)):
            return thinking.message(thought, written)
        message = thinking.message(thought, parsed.content)
        message["tool_calls"] = [openai(call) for call in parsed.calls]
        return message


def _said(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _squashed(text: str) -> str:
    """Without white space, which many templates trim."""
    return "".join(text.split())
