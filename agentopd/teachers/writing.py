"""A teacher that writes better actions: its answer at the student's state is what the student should have done there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentopd.chat import Chat
from agentopd.chat.blanks import Blanks
from agentopd.chat.conversation import conversation
from agentopd.chat.wire import from_wire, to_wire
from agentopd.serving import Answer
from agentopd.teachers.asking import BROKEN_OFF, AskingByTurn, facts
from agentopd.teachers.corrections import corrections
from agentopd.teachers.soft import Vocabulary, softened
from agentopd.tooling.action import parse_action
from agentopd.types import Annotation, Message, Trajectory

FIELDS = ("instructions", "facts")
"""What a prompt may name: the student's own system message, and what the environment tells teachers alone."""


@dataclass(frozen=True, slots=True)
class Written:
    """A better action."""

    action: str
    """As canonical text."""
    answer: Answer


@dataclass(frozen=True, eq=False, kw_only=True)
class WritingTeacher(AskingByTurn[Written | None]):
    """See :func:`agentopd.teachers.openai.openai`, ``ask: correction``."""

    chat: Chat
    prompt: Blanks
    vocabulary: Vocabulary | None = None
    """The student's, where the answers' log-probabilities become soft labels."""

    def question(self, trajectory: Trajectory, turn: int) -> Written | None:
        """The action that the model takes in the student's place; ``None`` where it gives none that is whole, or calls no tool there is."""
        tools = {"tools": [dict(tool) for tool in trajectory.tools]} if trajectory.tools else {}
        answer = self.said(to_wire(self._instructed(trajectory, turn)), **tools)
        action = None if answer.finish in BROKEN_OFF else from_wire(answer.content, answer.calls)
        known = {tool.get("function", tool)["name"] for tool in trajectory.tools}
        if action is None or not {call.name for call in parse_action(action).calls} <= known:
            return None
        return Written(action, answer)

    def _instructed(self, trajectory: Trajectory, turn: int) -> Sequence[Message]:
        """The conversation before a turn, with the system message that the prompt makes of the student's."""
        messages = conversation(trajectory, turn)
        system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
        rest = messages if system is None else messages[1:]
        text = self.prompt.filled({"instructions": system or "", "facts": facts(trajectory)})
        return [{"role": "system", "content": text}, *rest] if text.strip() else rest

    def annotation(self, trajectory: Trajectory, found: Mapping[int, Written | None]) -> Annotation:
        """The corrected actions as tokens, with rows where they are soft."""
        turns = range(len(trajectory.turns))
        written = [found.get(turn) for turn in turns]
        self.counted["skipped"] += sum(one is None for one in found.values())
        said = corrections(self.name, self.chat, trajectory, [None if one is None else one.action for one in written])
        if self.vocabulary is None:
            return said
        kept = [one for one in written if one is not None]
        soft, hard = softened(said, trajectory, [one.answer.tokens for one in kept], self.vocabulary)
        self.counted["unmapped"] += hard
        return soft
