"""The behaviour in a group of episodes, added up one record at a time."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.behaviour.counts import Agreement, Depth, Mean, Share, Taught, Tool
from agentopd.records.signals import Columns
from agentopd.tooling.action import parse_action
from agentopd.types import CONTEXT, EXPERT, STUDENT, Annotation, Record, Sparse, ToolCall, Trajectory, Turn

DIVERGENCE = "/divergence"
"""The end of the names of signals that are the loss of a term with a teacher's distribution."""


@dataclass(slots=True)
class Group:
    """Sums over episodes."""

    episodes: int = 0
    drawn: int = 0
    """Of these, records of episodes that were played under another key: several may be of one."""
    success: Share = field(default_factory=Share)
    reward: Mean = field(default_factory=Mean)
    turns: Mean = field(default_factory=Mean)
    """Per episode."""
    tokens: Mean = field(default_factory=Mean)
    """That somebody acted with, per episode."""
    thinking: Share = field(default_factory=Share)
    """Of these tokens, those that are thinking."""
    stops: Counter[str] = field(default_factory=Counter)
    calls: Mean = field(default_factory=Mean)
    """Per turn."""
    bad: Share = field(default_factory=Share)
    """Turns with a bad action."""
    errors: Counter[str] = field(default_factory=Counter)
    """Turns with a bad action of each kind."""
    in_a_row: Share = field(default_factory=Share)
    """Of the turns behind another, those whose action is that of the turn before."""
    again: Share = field(default_factory=Share)
    """Of the turns behind another, those whose action is that of any turn before."""
    against: dict[str, Agreement] = field(default_factory=dict)
    """By reference: a teacher that corrects, or ``expert`` for the environment's advice."""
    teachers: dict[str, Taught] = field(default_factory=dict)
    depths: dict[int, Depth] = field(default_factory=dict)
    """By turn, from 0."""
    tools: dict[str, Tool] = field(default_factory=dict)

    def add(self, record: Record, signals: Columns, teacher: str | None) -> None:
        """Adds one record.

        Args:
            record: It.
            signals: Of its tokens; no columns where none were kept.
            teacher: The only one that counts; ``expert`` is the environment's.
        """
        trajectory = record.trajectory
        self.episodes += 1
        self.drawn += trajectory.origin is not None
        self.success.add(trajectory.outcome.success and trajectory.failure is None)
        self.reward.add(trajectory.outcome.total_reward)
        self.turns.add(len(trajectory.turns))
        self.stops[trajectory.outcome.stop] += 1
        tokens = sum(int((segment.turn_T != CONTEXT).sum()) for segment in trajectory.segments)
        self.tokens.add(tokens)
        self.thinking.add(sum(_thought(trajectory, turn) for turn in trajectory.turns), tokens)
        for turn in trajectory.turns:
            self._add_turn(turn)
        self._add_repeats(trajectory)
        for name, turn, action in references(record):
            if teacher in (None, name):
                self.against.setdefault(name, Agreement()).add(
                    _counted(turn.calls), _counted(parse_action(action).calls)
                )
        for annotation in record.annotations:
            if teacher in (None, annotation.teacher) and len(annotation.segment_N):
                self._add_taught(trajectory, annotation)
        if signals:
            self._add_signals(signals)

    def depth(self, turn: int) -> Depth:
        """The turns at one depth."""
        return self.depths.setdefault(turn, Depth())

    def _add_turn(self, turn: Turn) -> None:
        self.calls.add(len(turn.calls))
        self.bad.add(bool(turn.errors))
        self.errors.update(set(turn.errors))
        at = self.depth(turn.index)
        at.turns += 1
        at.bad += bool(turn.errors)
        for outcome in turn.outcomes:
            tool = self.tools.setdefault(outcome.name, Tool())
            tool.outcomes[outcome.outcome] += 1
            tool.seconds.add(outcome.seconds)
            tool.cut += outcome.cut

    def _add_repeats(self, trajectory: Trajectory) -> None:
        seen, before = set[str](), None
        for turn in trajectory.turns:
            if before is not None:
                self.in_a_row.add(turn.action == before)
                self.again.add(turn.action in seen)
            before = turn.action
            seen.add(before)

    def _add_taught(self, trajectory: Trajectory, annotation: Annotation) -> None:
        taught = self.teachers.setdefault(annotation.teacher, Taught())
        ratio_N, turn_N, token_N = _drawn(trajectory, annotation)
        known_N = np.isfinite(ratio_N)
        taught.kl.add(float(ratio_N[known_N].sum()), int(known_N.sum()))
        for turn in np.unique(turn_N[known_N]).tolist():
            at_N = known_N & (turn_N == turn)
            mean = self.depth(turn).kl.setdefault(annotation.teacher, Mean())
            mean.add(float(ratio_N[at_N].sum()), int(at_N.sum()))
        if isinstance(annotation.block, Sparse):
            _add_sparse(taught, annotation.block, token_N)

    def _add_signals(self, signals: Columns) -> None:
        turn_N = signals["turn"]
        for name in signals:
            if not name.endswith(DIVERGENCE):
                continue
            known_N = np.isfinite(signals[name])
            for turn in np.unique(turn_N[known_N]).tolist():
                at_N = known_N & (turn_N == turn)
                mean = self.depth(int(turn)).divergence.setdefault(name.removesuffix(DIVERGENCE), Mean())
                mean.add(float(signals[name][at_N].sum()), int(at_N.sum()))


def references(record: Record) -> Iterator[tuple[str, Turn, str]]:
    """The turns for which somebody says what to do instead, or as well: who, the turn, and the action as canonical text."""
    turns = record.trajectory.turns
    told = {said.teacher for said in record.annotations if any(text is not None for text in said.corrected_S)}
    for turn in turns:
        # a teacher of that name says what the environment's expert advised
        if turn.advice is not None and turn.actor != EXPERT and EXPERT not in told:
            yield EXPERT, turn, turn.advice
    for annotation in record.annotations:
        for turn, action, skipped in zip(turns, annotation.corrected_S, annotation.skip_S.tolist(), strict=False):
            if action is not None and not skipped and turn.actor != annotation.teacher:
                yield annotation.teacher, turn, action


def _counted(calls: Iterable[ToolCall]) -> Counter[tuple[str, str]]:
    """Calls by name and arguments, these as JSON with sorted keys."""
    return Counter((call.name, json.dumps(call.arguments, sort_keys=True, default=dict)) for call in calls)


def _drawn(trajectory: Trajectory, annotation: Annotation) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """For each row of an annotation log p - log q, the turn and the token taken; ``nan`` and -1 where the student drew none."""
    count = len(annotation.segment_N)
    ratio_N, turn_N, token_N = np.full(count, np.nan), np.full(count, CONTEXT), np.full(count, CONTEXT)
    students = [number for number, actor in enumerate(trajectory.actors) if actor == STUDENT]
    for number, segment in enumerate(trajectory.segments):
        row_N = np.flatnonzero(annotation.segment_N == number)
        index = annotation.index_N[row_N]
        own = np.isin(segment.actor_T[index], students)
        row_N, index = row_N[own], index[own]
        ratio_N[row_N] = segment.logprob_T[index] - annotation.taken_logprob_N[row_N]
        turn_N[row_N], token_N[row_N] = segment.turn_T[index], segment.tokens_T[index]
    return ratio_N, turn_N, token_N


def _add_sparse(taught: Taught, block: Sparse, token_N: NDArray[Any]) -> None:
    drawn_N = token_N != CONTEXT
    count = int(drawn_N.sum())
    taught.mass.add(float((1.0 - np.exp(block.logtail_N[drawn_N].astype(np.float64))).sum()), count)
    size = block.ids_N_K.shape[1] // (2 if block.of == "union" else 1)
    taught.k.add(size)
    if block.of == "student":
        return
    teachers_N_K = block.ids_N_K[drawn_N, :size]
    taught.in_top.add(int((teachers_N_K == token_N[drawn_N, None]).any(1).sum()), count)
    if block.of == "union":  # of the student's ids those are left out that are the teacher's too
        taught.overlap.add(int((block.ids_N_K[drawn_N, size:] < 0).sum()), count * size)


def _thought(trajectory: Trajectory, turn: Turn) -> int:
    """The tokens of a turn's thought that somebody drew: those that closed one beyond its budget are context."""
    stretch = slice(turn.start, turn.start + turn.thinking)
    return int((trajectory.segments[turn.segment].turn_T[stretch] != CONTEXT).sum()) if turn.thinking else 0
