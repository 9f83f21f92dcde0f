"""Divergences between a student and a teacher that have no vocabulary in common.

Both write the same turn, cut into tokens of their own. A span is the shortest run of the student's rows and of the teacher's that
cover the same bytes, or what each writes in a form of its own, such as the wrapper of a call, between two of these. Where it begins
both have read the same, so there their next-token distributions p and q can be compared: each is one of events. Four rules make
the events common to both:

- **Tokens of the same bytes** are the same event (``types.Matched``), and so are the ends of a turn.
- **What the span writes** is an event of both. Under the student its probability is P = p(s_1) c, c = p(s_2 | s_1) p(s_3 | s_1, s_2) ...,
  under the teacher Q = q(t_1) d likewise; where the one has a single token for these bytes and the other has that token too but
  wrote several, the probability of that token is added. What remains of a first token, p(s_1) (1 - c), is the event of this token
  with another one behind it, and stands where p(s_1) stood. So all numbers are probabilities, and sum to 1. A span of one token on
  each side, which match, changes nothing.
- **What could come in forms of their own** where it did not, such as a call where the student wrote words, is an event by the tokens
  that begin it, on each side.
- **Everything else** has no counterpart; so has the other side's token of the same bytes, where one side writes a form, or begins one,
  by a single token.

The log-probabilities of all of the student's rows are differentiated, those behind the first through c; nothing of the teacher is.

TRL's GOLD (``trl/experimental/gold``, 1.16), by default, multiplies all of p by c and all of q by d, so that other tokens lose
probability for what follows the one that was taken; reads both one row too late; leaves the products of matched tokens as they are,
no distributions, where a Kullback-Leibler divergence may fall below 0; and weighs the two parts by the share of matched tokens
in the teacher's vocabulary. It skips the end of a turn, as ``teachers.<name>.end_of_turn: false`` does, and knows no forms.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor

from agentopd.errors import ConfigError
from agentopd.objective.closed import fused
from agentopd.objective.contract import call
from agentopd.objective.divergences import DIVERGENCES, Inner, inner_settings, uld
from agentopd.objective.floor import FLOOR
from agentopd.settings.choice import Choice


@dataclass(frozen=True, slots=True)
class Others:
    """How the columns of two vocabularies go together."""

    student_K: Tensor
    teacher_K: Tensor
    """Ids that mean the same, pairwise."""
    student_U: Tensor
    teacher_W: Tensor
    """All others."""
    of_student_V: Tensor
    of_teacher_V: Tensor
    """For each id its partner on the other side; -1 without one."""

    @classmethod
    def of(cls, student_K: Tensor, teacher_K: Tensor, sizes: tuple[int, int], same: bool = False) -> Self:
        """From the pairs, and how many ids student and teacher have.

        In the ``same`` vocabulary what the heads have beyond it is matched too, as far as both have it.

        Raises:
            ConfigError: A pair names an id that is not there.
        """
        for who, ids_K, size in zip(("student", "teacher"), (student_K, teacher_K), sizes, strict=True):
            if len(ids_K) and int(ids_K.max()) >= size:
                raise ConfigError(
                    f"the {who} has {size} tokens, and its tokenizer makes {int(ids_K.max()) + 1} or more; give the model's own tokenizer"
                )
        if same:
            student_K = teacher_K = torch.arange(min(sizes), device=student_K.device)
        ours_V, theirs_V = (torch.full((size,), -1, device=student_K.device) for size in sizes)
        ours_V[student_K], theirs_V[teacher_K] = teacher_K, student_K
        student_U, teacher_W = ((partner_V < 0).nonzero().squeeze(1) for partner_V in (ours_V, theirs_V))
        return cls(student_K, teacher_K, student_U, teacher_W, ours_V, theirs_V)


@dataclass(frozen=True, slots=True)
class SpanRows:
    """What a teacher with a vocabulary of its own says where spans begin; those of one block are all merged, or none is."""

    logq_N_W: Tensor
    token_N: Tensor
    """Its first token."""
    rest_N: Tensor
    """Log-probability of its further tokens in the span."""
    alone_N: Tensor
    """Whether it is the only one."""
    size_N: Tensor
    """How many rows of the student the span has."""
    same_N: Tensor
    """Whether both write it in the same bytes."""
    next_N_2: Tensor
    """The student's and the teacher's token that begin what could come in a form of its own; -1 where nothing could."""
    longest: int
    """The most that any has, known to the host."""
    merged: bool
    """Whether a side has several tokens, or their one token is not matched, or a form could come."""
    others: Others

    def select(self, at: Tensor) -> Self:
        """Some of the spans."""
        return replace(
            self,
            logq_N_W=self.logq_N_W[at],
            token_N=self.token_N[at],
            rest_N=self.rest_N[at],
            alone_N=self.alone_N[at],
            size_N=self.size_N[at],
            same_N=self.same_N[at],
            next_N_2=self.next_N_2[at],
        )

    def rows(self, first_N: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The rows [N, longest] of spans that begin at ``first_N``, all below ``size``; and which of these the spans have."""
        step_L = torch.arange(self.longest, device=first_N.device)
        row_N_L = first_N.unsqueeze(1) + step_L
        return row_N_L.clamp_max(max(size - 1, 0)), step_L < self.size_N.unsqueeze(1)


@dataclass(frozen=True, slots=True)
class Apart:
    """Log-probabilities of the events at N rows; the K that both have stand in the same order."""

    logp_N_K: Tensor
    logq_N_K: Tensor
    logp_N_U: Tensor
    logq_N_W: Tensor


def apart(logp_N_V: Tensor, token_N: Tensor, rest_N: Tensor, teacher: SpanRows) -> Apart:
    """The events where spans begin.

    Args:
        logp_N_V: The student's distribution there.
        token_N: The student's first token of each span.
        rest_N: The log-probability of its further tokens; 0 where it has one.
        teacher: What the teacher says.
    """
    others, logq_N_W = teacher.others, teacher.logq_N_W
    if not teacher.merged:
        return Apart(*_split(logp_N_V, logq_N_W, others))
    our_next_N, their_next_N = teacher.next_N_2.unbind(1)
    ours = _Side(token_N, rest_N, teacher.size_N == 1, our_next_N, others.of_teacher_V)
    theirs = _Side(teacher.token_N, teacher.rest_N, teacher.alone_N, their_next_N, others.of_student_V)
    logp_N_V, common_p, stray_p = ours.events(logp_N_V, theirs, teacher.same_N)
    logq_N_W, common_q, stray_q = theirs.events(logq_N_W, ours, teacher.same_N)
    logp_N_K, logq_N_K, logp_N_U, logq_N_R = _split(logp_N_V, logq_N_W, others)
    return Apart(
        torch.cat([logp_N_K, common_p], 1),
        torch.cat([logq_N_K, common_q], 1),
        torch.cat([logp_N_U, stray_p], 1),
        torch.cat([logq_N_R, stray_q], 1),
    )


def _partner(token_N: Tensor, partner_V: Tensor) -> Tensor:
    """The other side's token of the same bytes; -1 without one."""
    return partner_V[token_N.clamp_min(0)].masked_fill(token_N < 0, -1)


def _taken_out(log_N_V: Tensor, id_N: Tensor) -> tuple[Tensor, Tensor]:
    """The distribution without a token, and its log-probability [N]; an id of -1 is none."""
    none_N, at_N = id_N < 0, id_N.clamp_min(0)
    value_N = log_N_V.gather(1, at_N.unsqueeze(1)).squeeze(1)
    return _put(log_N_V, at_N, torch.where(none_N, value_N, FLOOR)), value_N.masked_fill(none_N, FLOOR)


def _split(logp_N_V: Tensor, logq_N_W: Tensor, others: Others) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        logp_N_V.index_select(1, others.student_K),
        logq_N_W.index_select(1, others.teacher_K),
        logp_N_V.index_select(1, others.student_U),
        logq_N_W.index_select(1, others.teacher_W),
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """What one side wrote in N spans."""

    token_N: Tensor
    rest_N: Tensor
    alone_N: Tensor
    next_N: Tensor
    partner_V: Tensor
    """Leads here from the other side's tokens."""

    def events(self, log_N_V: Tensor, other: Self, same_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is left of the distribution, the log-probabilities [N, 2] of spans and of what could come, and of what has lost its
        counterpart to these, [N, 2]."""
        first_N = log_N_V.gather(1, self.token_N.unsqueeze(1)).squeeze(1)
        # what is nearer to 0 is rounding, and its logarithm would be all of a divergence
        least = torch.finfo(first_N.dtype).eps
        another_N = (-torch.expm1(self.rest_N.clamp_max(-least))).log()
        log_N_V = _put(log_N_V, self.token_N, (first_N + another_N).masked_fill(self.alone_N, FLOOR))
        single_N = _partner(other.token_N, self.partner_V).masked_fill(~other.alone_N, -1)
        log_N_V, twin_N = _taken_out(log_N_V, single_N)
        log_N_V, next_N = _taken_out(log_N_V, self.next_N)
        log_N_V, stray_N = _taken_out(log_N_V, _partner(other.next_N, self.partner_V))
        span_N = torch.logaddexp(first_N + self.rest_N, twin_N.masked_fill(~same_N, FLOOR))
        strays = twin_N.masked_fill(same_N, FLOOR), stray_N
        return log_N_V, torch.stack([span_N, next_N], 1), torch.stack(strays, 1)


def _put(log_N_V: Tensor, id_N: Tensor, value_N: Tensor) -> Tensor:
    return log_N_V.scatter(1, id_N.unsqueeze(1), value_N.unsqueeze(1))


Across: TypeAlias = Callable[..., Tensor]
"""From the key of a divergence, the events and its settings to one number a row, [N]."""


def across(key: str, choice: Choice, settings: Mapping[str, Any], events: Apart) -> Tensor:
    """The divergence [N] of a term between two vocabularies; its ``kind`` is one of :data:`ACROSS`."""
    return call(key, replace(choice, function=ACROSS[choice.kind]), settings, events)  # type: ignore[no-any-return]


def _uld(events: Apart) -> Tensor:
    """:func:`~agentopd.objective.divergences.uld` over all events of each."""
    return uld(torch.cat([events.logp_N_K, events.logp_N_U], 1), torch.cat([events.logq_N_K, events.logq_N_W], 1))


def _gold(
    events: Apart, *, by: Inner, beta: float | Tensor, matched: float | Tensor, unmatched: float | Tensor
) -> Tensor:
    """:func:`~agentopd.objective.divergences.gold`."""
    logp_N_K, logq_N_K = events.logp_N_K, events.logq_N_K
    inner = Choice(by, DIVERGENCES[by], inner_settings(by, beta))
    if not (events.logp_N_U.shape[1] or events.logq_N_W.shape[1]):
        return matched * fused("", inner, inner.settings, logp_N_K, logq_N_K)
    rest_N = unmatched * uld(events.logp_N_U, events.logq_N_W)
    if not logp_N_K.shape[1]:
        return rest_N
    mass_N = logq_N_K.logsumexp(1).exp()
    given = (one.log_softmax(1) for one in (logp_N_K, logq_N_K))
    return matched * mass_N * fused("", inner, inner.settings, *given) + rest_N


ACROSS: Mapping[str, Across] = {"uld": _uld, "gold": _gold}
"""Those of ``DIVERGENCES`` that compare two vocabularies."""


def shared_evenly(value_N: Tensor, has_N_L: Tensor) -> Tensor:
    """The part [N, L] of a span's loss that each of its rows has: so its coefficient is the mean of theirs."""
    return has_N_L * (value_N / has_N_L.sum(1)).unsqueeze(1)
