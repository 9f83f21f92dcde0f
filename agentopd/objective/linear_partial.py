"""The fused divergences where a teacher said less than its whole distribution: its most likely tokens, or the token taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from agentopd.objective.chunked import Evaluate, chunked_loss, taken_logprob
from agentopd.objective.contract import call, row_values
from agentopd.objective.distributions import entropy, log_softmax
from agentopd.objective.divergences import check_temperature, check_tensors
from agentopd.objective.estimators import Importance, Taken, k2, k3, policy_gradient
from agentopd.objective.given import (
    Weight,
    check_finite,
    given_column,
    given_divergence,
    given_head,
    given_tokens,
    given_weights,
)
from agentopd.objective.head import Head
from agentopd.objective.linear import LinearDivergence
from agentopd.objective.numbers import of_rows
from agentopd.objective.supports import TeacherRows, top_k
from agentopd.settings.choice import Choice

Estimator: TypeAlias = Literal["k2", "k3", "score_function"]
ESTIMATORS = get_args(Estimator)
LARGEST = 1.0e-3
"""The largest log-probability that counts as one: that of a sure token, rounded."""


def sparse_linear_divergence(
    student_hidden: Tensor,
    student_weight: Weight,
    ids: Tensor,
    logprobs: Tensor,
    logtail: Tensor,
    *,
    kind: str = "forward_kl",
    k: int | None = None,
    tail: bool = True,
    normalise_teacher: bool = False,
    normalise_student: bool = False,
    weights: Tensor | None = None,
    tokens: Tensor | None = None,
    student_bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_rows: int | None = None,
    **parameters: Any,
) -> LinearDivergence:
    """:func:`linear_divergence` from a teacher that gave its K most likely tokens, on these and a bucket for all others.

    ``k``, ``tail``, ``normalise_teacher`` and ``normalise_student`` are those of the support ``top_k``; what is not said here is as in
    ``linear_divergence``. ``teacher_entropy`` is that of the support's entries: with the bucket at most the teacher's own.

    Args:
        student_hidden: [A, H].
        student_weight: [V, H], or a ``Head``.
        ids: [A, K], of tokens, the most likely first; -1 pads.
        logprobs: [A, K], the teacher's, at the same ``temperature``; anything where ``ids`` is -1.
        logtail: [A], the log of the teacher's mass on all other tokens.
        kind: The divergence.
        k: How many of the K count; all by default.
        tail: A bucket for all other tokens.
        normalise_teacher: The teacher's K sum to 1; takes ``tail=False``.
        normalise_student: The student's on them too.
        tokens: [A]; ``teacher_logprob`` is ``nan`` where one is not among ``ids``.

    Raises:
        ValueError: As for ``linear_divergence``; or the ids, or their log-probabilities, are none; a row names a token twice; or
            ``k`` is more than the teacher gave.
    """
    check_temperature(temperature)
    head = given_head("student", student_hidden, student_weight, student_bias, scale, softcap)
    coef_A = given_weights(weights, student_hidden)
    token_A = None if tokens is None else given_tokens(tokens, student_hidden, head)
    width = _check_support(ids, logprobs, k, len(student_hidden), len(head.weight_V_H))
    _check_logarithms("logprobs", logprobs, ids >= 0)
    _check_tail(logtail, len(student_hidden))
    normalised = {"normalise_teacher": normalise_teacher, "normalise_student": normalise_student}
    said = TeacherRows(ids_N_K=ids.long(), logq_N_K=logprobs.detach(), logtail_N=logtail.detach())
    choice, settings = given_divergence(kind, parameters, len(student_hidden))
    evaluate = _OnIds(said, {"k": width, "tail": tail, **normalised}, choice, settings, coef_A, token_A, temperature)
    return _evaluated(student_hidden, head, evaluate, chunk_rows, ("student", "teacher"))


@dataclass(frozen=True, slots=True)
class _OnIds:
    """From the student's logits of a tile to its weighted sum and the columns of ``LinearDivergence``, on a teacher's ids."""

    said: TeacherRows
    """Of all rows."""
    support: Mapping[str, Any]
    """The settings of ``top_k``."""
    choice: Choice
    settings: Mapping[str, Any]
    coef_A: Tensor
    token_A: Tensor | None
    temperature: float

    def __call__(self, logits_M_V: Tensor, tile: slice) -> tuple[Tensor, dict[str, Tensor]]:
        logp_M_V = log_softmax(logits_M_V, self.temperature)
        said = self.said.select(tile).to(logp_M_V.dtype)
        logp, logq = top_k(logp_M_V, said, **self.support)
        given = call("", self.choice, of_rows(self.settings, tile, None, logp.dtype), logp, logq)
        token_M, seen = None, {"teacher_entropy": entropy(logq)}
        if self.token_A is not None:
            token_M = self.token_A[tile]
            seen["teacher_logprob"] = _told(token_M, said)
        return _summed(row_values("", self.choice, given, logp), self.coef_A[tile], logp_M_V, token_M, seen)


def sampled_linear_divergence(
    student_hidden: Tensor,
    student_weight: Weight,
    tokens: Tensor,
    teacher_logprob: Tensor | None = None,
    *,
    estimator: Estimator = "k2",
    advantage: Tensor | None = None,
    old_logprob: Tensor | None = None,
    importance: Importance = "none",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    weights: Tensor | None = None,
    student_bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_rows: int | None = None,
) -> LinearDivergence:
    """An estimator of the reverse KL on tokens that the student took, from the teacher's log-probability of these alone.

    With l = log p(y) - log q(y): ``k2`` is l^2 / 2, whose gradient is in expectation that of the reverse KL; ``k3`` is
    exp(-l) - 1 + l, whose expectation is the reverse KL and whose gradient is in expectation that of the *forward* KL
    (Schulman, "Approximating KL divergence", 2020); ``score_function`` is -advantage * log p(y), by default with the advantage -l.
    What is not said here is as in ``linear_divergence``; ``divergence`` is the estimator's value, ``teacher_entropy`` is ``nan``.

    Args:
        student_hidden: [A, H].
        student_weight: [V, H], or a ``Head``.
        tokens: [A], the tokens taken.
        teacher_logprob: [A], the teacher's log-probability of them, at the same ``temperature``; not needed beside ``advantage``.
        estimator: ``k2``, ``k3`` or ``score_function``.
        advantage: [A], for ``score_function``.
        old_logprob: [A], the log-probability that the student took the tokens with, where ``importance`` needs it.
        importance: As ``clip_low`` and ``clip_high`` a setting of the estimator ``score_function``.
        weights: [A], those of ``linear_divergence``; also who sampled is corrected by them.

    Raises:
        ValueError: As for ``linear_divergence``; or the estimator does not exist, or what it reads is missing or no finite number.
    """
    check_temperature(temperature)
    head = given_head("student", student_hidden, student_weight, student_bias, scale, softcap)
    coef_A, token_A = given_weights(weights, student_hidden), given_tokens(tokens, student_hidden, head)
    columns = {"teacher_logprob": teacher_logprob, "advantage": advantage, "old_logprob": old_logprob}
    read = _read(estimator, importance, columns, len(student_hidden))
    ratio = {"importance": importance, "clip_low": clip_low, "clip_high": clip_high}
    evaluate = _OnToken(estimator, ratio, read, coef_A, token_A, temperature)
    return _evaluated(student_hidden, head, evaluate, chunk_rows, ("student",))


@dataclass(frozen=True, slots=True)
class _OnToken:
    """As :class:`_OnIds`, on the token taken."""

    estimator: str
    ratio: Mapping[str, Any]
    read: Mapping[str, Tensor]
    """Columns [A]."""
    coef_A: Tensor
    token_A: Tensor
    temperature: float

    def __call__(self, logits_M_V: Tensor, tile: slice) -> tuple[Tensor, dict[str, Tensor]]:
        logp_M_V, token_M = log_softmax(logits_M_V, self.temperature), self.token_A[tile]
        logp_M = taken_logprob(logp_M_V, token_M)
        of_tile = {name: column[tile].to(logp_M.dtype) for name, column in self.read.items()}
        nothing_M = torch.full_like(logp_M.detach(), torch.nan)
        seen = {"teacher_entropy": nothing_M, "teacher_logprob": of_tile.get("teacher_logprob", nothing_M)}
        value_M = _estimate(self.estimator, logp_M, of_tile, self.ratio)
        return _summed(value_M, self.coef_A[tile], logp_M_V, token_M, seen)


def _evaluated(
    student_hidden: Tensor, head: Head, evaluate: Evaluate, chunk_rows: int | None, models: Sequence[str]
) -> LinearDivergence:
    """What needs no matrix product of a teacher; ``models`` are those whose logits a bad row may be blamed on."""
    loss, signals = chunked_loss(student_hidden, head, lambda rows: evaluate, chunk_rows)
    check_finite(signals, models)
    return LinearDivergence(loss, **signals)


def _summed(
    value_M: Tensor, coef_M: Tensor, logp_M_V: Tensor, token_M: Tensor | None, seen: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of a tile, and what is seen of its rows."""
    signals = {"divergence": value_M.detach(), "student_entropy": entropy(logp_M_V.detach()), **seen}
    if token_M is not None:
        signals["student_logprob"] = taken_logprob(logp_M_V.detach(), token_M)
    return (coef_M.to(value_M.dtype) * value_M).sum(), signals


def _told(token_M: Tensor, said: TeacherRows) -> Tensor:
    """The teacher's log-probability [M] of the tokens taken, ``nan`` where it does not name them."""
    assert said.ids_N_K is not None
    assert said.logq_N_K is not None
    found_M_K = said.ids_N_K == token_M.unsqueeze(1)
    return said.logq_N_K.masked_fill(~found_M_K, 0.0).sum(-1).masked_fill(~found_M_K.any(-1), torch.nan)


def _check_support(ids: Tensor, logprobs: Tensor, k: int | None, rows: int, vocabulary: int) -> int:
    """How many of the ids count."""
    check_tensors(ids=ids, logprobs=logprobs)
    if ids.ndim != 2 or ids.shape != logprobs.shape or len(ids) != rows or not ids.shape[1]:
        raise ValueError(
            f"ids is {tuple(ids.shape)} and logprobs {tuple(logprobs.shape)} for {rows} rows; give [A, K] each, K at least 1"
        )
    if ids.dtype not in (torch.int64, torch.int32) or (
        rows and not -1 <= int(ids.min()) <= int(ids.max()) < vocabulary
    ):
        ends = f", from {int(ids.min())} to {int(ids.max())}" if ids.numel() else ""
        raise ValueError(
            f"ids are {ids.dtype}{ends} in a vocabulary of {vocabulary}; give the student's tokens as integers, -1 where a row has "
            "fewer"
        )
    ordered = ids.sort(-1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row, at = twice.nonzero()[0].tolist()
        raise ValueError(
            f"ids[{row}] names token {int(ordered[row, at + 1])} twice; name each once, or its probability would count twice (-1 pads)"
        )
    if k is not None and not 1 <= k <= ids.shape[1]:
        raise ValueError(
            f"k={k}: the teacher gives {ids.shape[1]} tokens a row; set k from 1 to that, or ask it for more"
        )
    return ids.shape[1] if k is None else k


def _check_logarithms(name: str, given: Tensor, counts: Tensor) -> None:
    """Refuses what is no log-probability; -inf is one."""
    bad = counts & ~(given <= LARGEST)
    if bad.any():
        raise ValueError(
            f"{name}{bad.nonzero()[0].tolist()} is {float(given[bad][0])}; give logarithms of probabilities, at most 0"
        )


def _check_tail(logtail: Tensor, rows: int) -> None:
    check_tensors(logtail=logtail)
    if logtail.shape != (rows,):
        raise ValueError(
            f"logtail is {tuple(logtail.shape)} for {rows} rows; give the log of the mass outside ids, [A]"
        )
    _check_logarithms("logtail", logtail, torch.ones_like(logtail, dtype=torch.bool))


def _read(estimator: str, importance: str, given: Mapping[str, Tensor | None], rows: int) -> dict[str, Tensor]:
    """The columns that are given, all that the estimator needs among them."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator={estimator!r}: there is none of that name; use one of {', '.join(ESTIMATORS)}")
    scored = estimator == "score_function"
    if not scored and (given["advantage"] is not None or importance != "none"):
        raise ValueError(
            f"estimator={estimator!r} reads no advantage and no importance; leave them out, or use 'score_function'"
        )
    needed = {"old_logprob"} if importance != "none" else set()
    if not scored or given["advantage"] is None:
        needed.add("teacher_logprob")
    return {
        name: given_column(name, column, rows) for name, column in given.items() if column is not None or name in needed
    }


def _estimate(estimator: str, logp_M: Tensor, of_tile: Mapping[str, Tensor], ratio: Mapping[str, Any]) -> Tensor:
    """Its value [M], which the gradient is taken of."""
    if estimator == "score_function":
        fixed_M = logp_M.detach()
        advantage_M = of_tile["advantage"] if "advantage" in of_tile else of_tile["teacher_logprob"] - fixed_M
        return policy_gradient(logp_M, advantage_M, of_tile.get("old_logprob", fixed_M), **ratio)
    taken = Taken(logp_M, of_tile["teacher_logprob"])
    return k2(taken) if estimator == "k2" else k3(taken)
