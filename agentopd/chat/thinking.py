"""The thinking that opens a turn, told from what is said."""

import re
from dataclasses import dataclass

from agentopd.chat.fallbacks import HELLO, OTHER, PROBE, Try, Ways
from agentopd.tooling.action import OPEN
from agentopd.types import Message

THOUGHT_OPEN, THOUGHT_CLOSE = "<think>", "</think>"
CALLS = (OPEN, "<invoke ")
"""What opens a call."""
CHANNEL_CLOSE = "<channel|>"
"""Gemma's."""
CHANNEL = "<|channel"
"""What opens the thinking of Gemma and gpt-oss begins with this."""
OPENS = {
    THOUGHT_CLOSE: THOUGHT_OPEN,
    CHANNEL_CLOSE: f"{CHANNEL}>",
    f"{CHANNEL}|>final<|message|>": f"{CHANNEL}|>analysis",
}
"""What opens the thinking that a mark ends, where the model writes it."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a template's model marks thinking."""

    close: str = ""
    """What ends it; empty where the template knows no thinking."""
    lead: str = ""
    """What the template writes before every answer; the model writes it too, and it is no part of what is said."""

    apart: bool = False
    """Whether the template takes it as ``reasoning_content`` only."""

    opened: bool = False
    """Whether the generation prompt opens it."""

    dropped: bool = False
    """Whether messages leave it out."""

    @property
    def kept(self) -> bool:
        """Whether its marks are ``<think>``; templates with others are given the answer alone."""
        return self.close == THOUGHT_CLOSE

    def message(self, thought: str, content: str) -> Message:
        """An assistant's message."""
        if self.dropped:
            thought = ""
        if self.apart and thought:
            inner = thought.strip().removesuffix(self.close).strip().removeprefix(THOUGHT_OPEN).strip()
            return {"role": "assistant", "content": content, "reasoning_content": inner}
        return {"role": "assistant", "content": (thought if self.kept else "") + content}

    def split(self, text: str, opened: bool) -> tuple[str, str]:
        """The thinking that opens a turn, marks and newlines included, and the rest: nothing where it never ends.

        Args:
            text: Of the turn.
            opened: Whether the prompt opened the thinking.
        """
        if not self.close:
            return "", text.removeprefix(self.lead)
        thought, mark, said = text.partition(self.close)
        opened = opened or text.lstrip().startswith(OPENS.get(self.close, self.close))
        if not mark:
            return (text, "") if opened else ("", text)
        called = any(opens in thought for opens in CALLS)  # the mark then stands in an argument
        if self.kept and called and not opened:
            return "", text
        said = said.lstrip("\n")
        return text[: len(text) - len(said)], said


def find_thinking(render: Try, ways: Ways, source: str, special: re.Pattern[str]) -> Thinking:
    """How thinking ends: with a mark that the template's source holds, or with what it writes before every answer.

    Args:
        render: Renders messages as they are.
        ways: How conversations are put to the template.
        source: The template.
        special: Matches a special string.
    """
    marks = [mark for mark in (THOUGHT_CLOSE, CHANNEL_CLOSE) if mark in source]
    prompt = render(*ways.adapt([HELLO], ()), generate=True) or ""
    if marks:
        apart = marks[0] == THOUGHT_CLOSE and _wants_apart(render, ways)
        return Thinking(marks[0], apart=apart, opened=prompt.rstrip().endswith(THOUGHT_OPEN))
    whole = render(*ways.adapt([HELLO, {"role": "assistant", "content": PROBE}], ())) or ""
    lead = whole[len(prompt) :].partition(PROBE)[0] if whole.startswith(prompt) else ""
    if special.search(lead):
        return Thinking(lead.strip(), lead)
    return Thinking("", "" if lead.strip() else lead)


def _wants_apart(render: Try, ways: Ways) -> bool:
    """Whether only as ``reasoning_content`` thinking gets its two marks, in the content as a model writes it less or more."""
    prompt = render(*ways.adapt([HELLO], ()), generate=True) or ""
    opened = "" if prompt.rstrip().endswith(THOUGHT_OPEN) else f"{THOUGHT_OPEN}\n"  # the prompt may have opened it
    content = f"{opened}{PROBE}\n{THOUGHT_CLOSE}\n\n{OTHER}"
    if _marked_once(render, ways, {"role": "assistant", "content": content}):
        return False
    return _marked_once(render, ways, {"role": "assistant", "content": OTHER, "reasoning_content": PROBE})


def _marked_once(render: Try, ways: Ways, message: Message) -> bool:
    turn = (render(*ways.adapt([HELLO, message], ())) or "").partition(HELLO["content"])[2]
    return PROBE in turn and turn.count(THOUGHT_OPEN) == turn.count(THOUGHT_CLOSE) == 1
