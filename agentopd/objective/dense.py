"""What teachers say of a chunk of rows through their output heads: one, an ensemble, or one extrapolated past another.

Of each teacher the matrix product is computed once a chunk; at most two chunks of teachers' logits exist at once, however many
teachers there are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from agentopd.objective.chunked import inner, tiles
from agentopd.objective.columns import ALEATORIC, EPISTEMIC
from agentopd.objective.distributions import distribution, entropy, exactly
from agentopd.objective.floor import column, floored
from agentopd.objective.head import Projector, Scratch
from agentopd.objective.targets import extrapolated


@dataclass(frozen=True, slots=True)
class Told:
    """The teacher's distribution on the rows of a tile."""

    q_M_V: Tensor
    logq_M_V: Tensor
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    """[M] each: what else is known of the rows."""

    @property
    def entropy_M(self) -> Tensor:
        """In nats."""
        return entropy(self.logq_M_V, self.q_M_V)


Tell: TypeAlias = Callable[[slice], Told]
"""From a tile of the chunk at hand to what is told of it."""


class DenseTeacher(Protocol):
    """Whoever can be asked for whole distributions, a chunk after the other."""

    def open(self, rows: slice) -> Tell:
        """Computes the matrix products of a chunk; those of the chunk before are overwritten."""


@dataclass(frozen=True, slots=True)
class One:
    """A single head's softmax at a temperature."""

    project: Projector
    temperature: float

    def open(self, rows: slice) -> Tell:
        """See :class:`DenseTeacher`."""
        projected_N_V = self.project(rows)

        def tell(tile: slice) -> Told:
            logits_M_V = self.project.head.shaped(projected_N_V[inner(tile, rows)])
            return Told(*distribution(logits_M_V, self.temperature))

        return tell


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The arithmetic mean of several softmaxes, and how far they differ.

    With m = sum over e of share_e q_e: ``aleatoric`` = sum over e of share_e H(q_e), and ``epistemic`` = H(m) - aleatoric, the
    mutual information between token and member, at least 0 (arXiv 1710.07283, for an ensemble).
    """

    members: Sequence[Projector]
    """Their chunks stand in one memory."""
    shares: Sequence[float]
    """Sum 1."""
    temperature: float
    memory: Scratch = field(default_factory=Scratch)

    def open(self, rows: slice) -> Tell:
        """See :class:`DenseTeacher`."""
        logm_N_V, aleatoric_N = self._mixed(rows)

        def tell(tile: slice) -> Told:
            at = inner(tile, rows)
            m_M_V, aleatoric_M = logm_N_V[at].exp(), aleatoric_N[at]
            epistemic_M = (entropy(logm_N_V[at], m_M_V) - aleatoric_M).clamp_min_(0.0)
            return Told(m_M_V, logm_N_V[at], {ALEATORIC: aleatoric_M, EPISTEMIC: epistemic_M})

        return tell

    def _mixed(self, rows: slice) -> tuple[Tensor, Tensor]:
        """log m, and the mean entropy of the members."""
        exact = self.members[0].hidden_A_H.new_empty(0, dtype=torch.promote_types(self._dtype, torch.float32))
        logm_N_V = self.memory.rows(rows.stop - rows.start, exact, len(self.members[0].head.weight_V_H))
        aleatoric_N = logm_N_V.new_zeros(len(logm_N_V))
        for number, (member, share) in enumerate(zip(self.members, self.shares, strict=True)):
            projected_N_V = member(rows)
            for at in (inner(tile, rows) for tile in tiles(rows, projected_N_V)):
                q_M_V, logq_M_V = distribution(member.head.shaped(projected_N_V[at]), self.temperature)
                aleatoric_N[at] += share * entropy(logq_M_V, q_M_V)
                part_M_V = logq_M_V.add_(math.log(share))
                logm_N_V[at] = torch.logaddexp(logm_N_V[at], part_M_V) if number else part_M_V
        return logm_N_V, aleatoric_N

    @property
    def _dtype(self) -> torch.dtype:
        return max((member.hidden_A_H.dtype for member in self.members), key=lambda dtype: dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Extrapolated:
    """The target ``extrapolate`` (``targets.py``) of a teacher and a reference, at a temperature that both are taken at."""

    teacher: Projector
    reference: Projector
    by: float | Tensor
    """A number, or one a row, [A]."""
    temperature: float

    def open(self, rows: slice) -> Tell:
        """See :class:`DenseTeacher`."""
        projected_N_V, reference_N_V = self.teacher(rows), self.reference(rows)

        def tell(tile: slice) -> Told:
            at = inner(tile, rows)
            q_M_V, r_M_V = floored(
                exactly(self.teacher.head.shaped(projected_N_V[at])),
                exactly(self.reference.head.shaped(reference_N_V[at])),
            )
            by = column(self.by[tile].to(q_M_V.dtype)) if isinstance(self.by, Tensor) else self.by
            return Told(*distribution(extrapolated(q_M_V, r_M_V, by), self.temperature))

        return tell
