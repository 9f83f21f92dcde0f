"""The thinking that opens a turn, told from what is said."""

from dataclasses import dataclass

from agentopd.chat.fallbacks import HELLO, PROBE, Try, Ways
from agentopd.tooling.action import OPEN

THOUGHT_OPEN, THOUGHT_CLOSE = "<think>", "</think>"
CHANNEL_CLOSE = "<channel|>"
"""Gemma's."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a template's model marks thinking."""

    close: str = ""
    """What ends it; empty where the template knows no thinking."""

    @property
    def inline(self) -> bool:
        """Whether templates take it in the content, marks and all; else messages leave it out."""
        return self.close == THOUGHT_CLOSE

    def split(self, text: str) -> tuple[str, str]:
        """The thinking that opens a turn, marks and newlines included, and the rest."""
        if not self.close:
            return "", text
        thought, mark, said = text.partition(self.close)
        opened = not self.inline or text.lstrip().startswith(THOUGHT_OPEN) or OPEN not in thought
        if not mark or not opened:
            return "", text
        said = said.lstrip("\n")
        return text[: len(text) - len(said)], said

    def inner(self, thought: str) -> str:
        """What was thought, without the marks."""
        return thought.strip().removesuffix(self.close).strip().removeprefix(THOUGHT_OPEN).strip()


def find_thinking(render: Try, ways: Ways, source: str) -> Thinking:
    """How thinking ends: with a mark that the template's source holds, or with what it writes before every answer.

    Args:
        render: Renders messages as they are.
        ways: How conversations are put to the template.
        source: The template.
    """
    for mark in (THOUGHT_CLOSE, CHANNEL_CLOSE):
        if mark in source:
            return Thinking(mark)
    prompt = render(*ways.adapt([HELLO], ()), generate=True) or ""
    whole = render(*ways.adapt([HELLO, {"role": "assistant", "content": PROBE}], ())) or ""
    lead = whole[len(prompt) :].partition(PROBE)[0].strip() if whole.startswith(prompt) else ""
    return Thinking(lead)
