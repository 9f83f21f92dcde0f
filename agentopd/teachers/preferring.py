"""A teacher that compares: which of two actions at the same state it prefers, among the episodes of one task."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from agentopd.chat.blanks import Blanks
from agentopd.chat.conversation import conversation
from agentopd.chat.thinking import THOUGHT_CLOSE
from agentopd.serving import Answer
from agentopd.teachers.asking import Asking, acted
from agentopd.teachers.base import rowless
from agentopd.teachers.judging import filled
from agentopd.types import Annotation, Trajectory

FIELDS = ("conversation", "first", "second", "tools", "rubric", "facts")
"""What a prompt may name."""
PROMPT = """\
An agent works on a task with these tools:

{tools}

This is what it was told, and what it has done so far:

{conversation}

Two actions are possible now.

A:
{first}

B:
{second}

Which of the two is better here? {rubric}

Answer with the letter A or B and nothing else."""
AGAIN = "Answer again with the letter A or B, and nothing else."

_LETTER = re.compile(r"\W*(?:action\s+)?([AB])\b\W*", re.IGNORECASE)


class Standing(NamedTuple):
    """A turn of a batch: which episode, and which turn of it."""

    episode: int
    turn: int


Verdicts: TypeAlias = dict[tuple[Standing, Standing], "Future[float | None] | None"]
"""How one turn stands against another; ``None`` where both took the same action."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PreferringTeacher(Asking[float | None]):
    """See :func:`agentopd.teachers.openai.openai`, ``ask: preference``."""

    prompt: Blanks
    rubric: str
    pairs: int
    scale: float = 1.0

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """For each selected turn with rivals the mean of how it stands against them, from -1 to 1.

        Raises:
            TeacherError: As of :class:`Asking`.
        """
        asked: Verdicts = {}
        for rivals in self._states(trajectories):
            for pair in pairs_of(rivals, self.pairs):
                asked[pair] = self._compared(trajectories, *pair)
        against: dict[Standing, list[float]] = defaultdict(list)
        heard = iter(self.heard([answer for answer in asked.values() if answer is not None]))
        for (one, _), answer in asked.items():
            verdict = 0.0 if answer is None else next(heard)
            if verdict is None:
                self.counted["skipped"] += 1
            else:
                against[one].append(verdict)
        return [self._rewarded(trajectory, i, against) for i, trajectory in enumerate(trajectories)]

    def _states(self, trajectories: Sequence[Trajectory]) -> Iterable[Sequence[Standing]]:
        """The selected turns that stand at one state: the same task, and the same messages so far."""
        states: dict[str, list[Standing]] = defaultdict(list)
        for i, trajectory in enumerate(trajectories):
            for turn in self.turns(trajectory):
                messages = conversation(trajectory, turn)
                states[json.dumps([trajectory.task.id, messages], sort_keys=True)].append(Standing(i, turn))
        return states.values()

    def _compared(
        self, trajectories: Sequence[Trajectory], one: Standing, other: Standing
    ) -> "Future[float | None] | None":
        mine, theirs = (acted(trajectories[at.episode], at.turn) for at in (one, other))
        if mine == theirs:
            return None
        return self.threads.begin(self._verdict, trajectories[one.episode], one.turn, mine, theirs)

    def _verdict(self, trajectory: Trajectory, turn: int, mine: str, theirs: str) -> float | None:
        """1 where the first of two actions is preferred in both orders, -1 where the second is, 0 where the orders disagree.

        ``None`` where one of the answers says neither.
        """
        before, after = self._first(trajectory, turn, mine, theirs), self._first(trajectory, turn, theirs, mine)
        if before is None or after is None:
            return None
        return float(before) - float(after)

    def _first(self, trajectory: Trajectory, turn: int, first: str, second: str) -> bool | None:
        """Whether the action that is shown first is preferred; asked once more where the answer says neither."""
        text = filled(self.prompt, trajectory, turn, turn, rubric=self.rubric, first=first, second=second)
        return self.asked_twice(text, _chosen, AGAIN)

    def _rewarded(self, trajectory: Trajectory, i: int, against: Mapping[Standing, Sequence[float]]) -> Annotation:
        verdicts = [against.get(Standing(i, turn), ()) for turn in range(len(trajectory.turns))]
        reward_S = np.array([self.scale * np.mean(one) if one else np.nan for one in verdicts], np.float32)
        return rowless(self.name, trajectory, reward_S=reward_S, skip_S=np.isnan(reward_S))


def pairs_of(rivals: Sequence[Standing], most: int) -> Iterable[tuple[Standing, Standing]]:
    """Each turn against those that follow it around the circle, ``most`` of them at most: each meets as many."""
    for i, one in enumerate(rivals):
        for distance in range(1, min(most, len(rivals) - 1) + 1):
            yield one, rivals[(i + distance) % len(rivals)]


def _chosen(answer: Answer) -> bool | None:
    """Whether an answer is the letter A; ``None`` where it is neither A nor B."""
    said = answer.content.rpartition(THOUGHT_CLOSE)[2].strip()
    match = _LETTER.fullmatch(said)
    return None if match is None else match[1].upper() == "A"
