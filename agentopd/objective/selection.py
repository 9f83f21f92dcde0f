"""Selection: which rows of a global batch one term works on."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from agentopd.objective.advantages import OUTCOME, teacher_of
from agentopd.objective.columns import Reals
from agentopd.objective.rows import Rows
from agentopd.objective.term import Term
from agentopd.types import Bools
from agentopd.where import Where


@dataclass(frozen=True, slots=True)
class Selection:
    """Four masks [A], each within the one before it for a score function."""

    played_A: Bools
    """Rows of episodes that did not fail, without corrected actions, which nobody took: what returns are formed on."""
    acted_A: Bools
    """Trainable rows of the term's actors and sources in episodes that did not fail: who acted forms the groups."""
    counts_A: Bools
    """Those that the target says something of, in whichever turns: whose rewards a score function adds up."""
    learns_A: Bools
    """Those in turns and episodes that ``where`` selects: what the term trains."""

    @classmethod
    def of(cls, term: Term, rows: Rows) -> Self:
        """The rows that ``term`` works on.

        Raises:
            TeacherError: Its target annotated nothing in this batch.
        """
        intact_A = _intact(rows)
        acted_A = _acted(term, rows) & intact_A
        counts_A = acted_A & _taught(term, rows)
        return cls(intact_A & ~rows.corrected_A, acted_A, counts_A, counts_A & _in_turns(term, rows))

    def spread(self, column: Reals) -> Reals:
        """A column of the rows that learn over the whole batch, 0 elsewhere."""
        spread_A = np.zeros(len(self.learns_A))
        spread_A[self.learns_A] = column
        return spread_A


def _intact(rows: Rows) -> Bools:
    """Rows of episodes that did not fail."""
    return ~rows.episodes.failed_B[rows.trajectory_A]


def _acted(term: Term, rows: Rows) -> Bools:
    """Trainable rows of the term's actors and sources."""
    mask_A = rows.trainable_A.copy()
    if not term.analytic:
        mask_A &= ~rows.corrected_A
    if term.where.actor:
        mask_A &= np.isin(rows.actor_A, term.where.actor)
    if term.where.source:
        mask_A &= np.isin(rows.source_A, term.where.source)
    return mask_A


def _in_turns(term: Term, rows: Rows) -> Bools:
    """Rows of the episodes and turns that ``where`` selects."""
    where, episodes = term.where, rows.episodes
    each = zip(episodes.env_B, episodes.tags_B, episodes.success_B, strict=True)
    selected_B = np.array([where.episode(*one) for one in each], np.bool_)
    mask_A = selected_B[rows.trajectory_A] & where.depth(rows.turn_A)
    return mask_A & _called(where, rows) if where.tool else mask_A


def _called(where: Where, rows: Rows) -> Bools:
    """Rows of the turns that called one of the tools of ``where``."""
    tools_B = rows.episodes.tools_B
    starts = np.cumsum([0, *(len(tools_S) for tools_S in tools_B)])
    called = np.array([where.called(tools) for tools_S in tools_B for tools in tools_S], np.bool_)
    return called[starts[rows.trajectory_A] + rows.turn_A]


def _taught(term: Term, rows: Rows) -> Bools:
    """Rows that the target says something of; turns that a teacher of it skips are not among them."""
    if term.target.kind == "taken" or term.reward == OUTCOME:
        return np.ones(len(rows), np.bool_)
    if not len(rows.episodes):
        return np.zeros(0, np.bool_)
    if term.reward is not None:
        return teacher_of(rows, term.reward).rewarded_A
    covered = [teacher_of(rows, name).covered_A for name in term.reads.values()]
    return np.asarray(np.all(covered, axis=0), np.bool_)
