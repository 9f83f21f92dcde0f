"""The fused divergences where a teacher said less than its whole distribution: its most likely tokens, or the token taken."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from agentopd.objective.chunked import Evaluate, Open, check_tokens, chunked_loss, taken_logprob
from agentopd.objective.contract import call, row_values
from agentopd.objective.distributions import entropy, log_softmax
from agentopd.objective.divergences import check_temperature, check_tensors
from agentopd.objective.estimators import Taken, k2, k3, policy_gradient
from agentopd.objective.given import Weight, check_finite, given_column, given_divergence, given_head, given_weights
from agentopd.objective.linear import LinearDivergence
from agentopd.objective.reading import of_rows
from agentopd.objective.supports import TeacherRows, top_k

Estimator: TypeAlias = Literal["k2", "k3", "score_function"]
ESTIMATORS = ("k2", "k3", "score_function")
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

    ``k``, ``tail``, ``normalise_teacher`` and ``normalise_student`` are those of the support ``top_k``; the other arguments are those
    of ``linear_divergence``. ``teacher_entropy`` is that of the support's entries: with the bucket at most the teacher's own.

    Args:
        student_hidden: [A, H].
        student_weight: [V, H], or a ``Head``.
        ids: [A, K], of tokens, the most likely first; -1 pads.
        logprobs: [A, K], the teacher's, at the same ``temperature``; anything where ``ids`` is -1.
        logtail: [A], the log of the teacher's mass on all other tokens.
        kind: See ``linear_divergence``.
        k: How many of the K count; all by default.
        tail: A bucket for all other tokens.
        normalise_teacher: The teacher's K sum to 1; takes ``tail=False``.
        normalise_student: The student's on them too.
        weights: See ``linear_divergence``.
        tokens: [A]; ``teacher_logprob`` is ``nan`` where one is not among ``ids``.
        student_bias: See ``linear_divergence``.
        temperature: The student's logits are divided by it.
        softcap: See ``linear_divergence``.
        scale: See ``linear_divergence``.
        chunk_rows: See ``linear_divergence``.
        **parameters: See ``linear_divergence``.

    Raises:
        ValueError: As for ``linear_divergence``; or the ids, or their log-probabilities, are none; a row names a token twice; or
            ``k`` is more than the teacher gave.
    """
    check_temperature(temperature)
    head = given_head("student", student_hidden, student_weight, student_bias, scale, softcap)
    coef_A, rows = given_weights(weights, student_hidden), len(student_hidden)
    width = _check_support(ids, logprobs, k, rows, len(head.weight_V_H))
    _check_logarithms("logprobs", logprobs, ids >= 0)
    check_tensors(logtail=logtail)
    if logtail.shape != (rows,):
        raise ValueError(
            f"logtail is {tuple(logtail.shape)} for {rows} rows; give the log of the mass outside ids, [A]"
        )
    _check_logarithms("logtail", logtail, torch.ones_like(logtail, dtype=torch.bool))
    if tokens is not None:
        check_tokens(tokens, rows, len(head.weight_V_H))
    choice, settings = given_divergence(kind, parameters, rows)
    on_ids = partial(
        top_k, k=width, tail=tail, normalise_teacher=normalise_teacher, normalise_student=normalise_student
    )

    def evaluate(logits_M_V: Tensor, tile: slice) -> tuple[Tensor, dict[str, Tensor]]:
        logp_M_V = log_softmax(logits_M_V, temperature)
        logq_M_K, logtail_M = logprobs[tile].detach().to(logp_M_V.dtype), logtail[tile].detach().to(logp_M_V.dtype)
        told = TeacherRows(ids_N_K=ids[tile].long(), logq_N_K=logq_M_K, logtail_N=logtail_M)
        logp, logq = on_ids(logp_M_V, told)
        given = call("", choice, of_rows(settings, tile, None, logp.dtype), logp, logq)
        seen = {"teacher_entropy": entropy(logq)}
        if tokens is not None:
            seen["teacher_logprob"] = _told(tokens[tile], ids[tile], logq_M_K)
        token_M = None if tokens is None else tokens[tile]
        return _summed(row_values("", choice, given, logp), coef_A[tile], logp_M_V, token_M, seen)

    loss, signals = chunked_loss(student_hidden, head, _always(evaluate), chunk_rows)
    check_finite(signals)
    return LinearDivergence(loss, **signals)


def sampled_linear_divergence(
    student_hidden: Tensor,
    student_weight: Weight,
    tokens: Tensor,
    teacher_logprob: Tensor | None = None,
    *,
    estimator: Estimator = "k2",
    advantage: Tensor | None = None,
    old_logprob: Tensor | None = None,
    importance: Literal["none", "ratio", "clipped"] = "none",
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
    The other arguments are those of ``linear_divergence``; ``divergence`` is the estimator's value, ``teacher_entropy`` is ``nan``.

    Args:
        student_hidden: [A, H].
        student_weight: [V, H], or a ``Head``.
        tokens: [A], the tokens taken.
        teacher_logprob: [A], the teacher's log-probability of them, at the same ``temperature``; not needed beside ``advantage``.
        estimator: ``k2``, ``k3`` or ``score_function``.
        advantage: [A], for ``score_function``.
        old_logprob: [A], the log-probability that the student took the tokens with, where ``importance`` needs it.
        importance: See the estimator ``score_function``.
        clip_low: See the estimator ``score_function``.
        clip_high: See the estimator ``score_function``.
        weights: See ``linear_divergence``.
        student_bias: See ``linear_divergence``.
        temperature: The student's logits are divided by it.
        softcap: See ``linear_divergence``.
        scale: See ``linear_divergence``.
        chunk_rows: See ``linear_divergence``.

    Raises:
        ValueError: As for ``linear_divergence``; or the estimator does not exist, or what it reads is missing or no finite number.
    """
    check_temperature(temperature)
    head = given_head("student", student_hidden, student_weight, student_bias, scale, softcap)
    coef_A, rows = given_weights(weights, student_hidden), len(student_hidden)
    check_tokens(tokens, rows, len(head.weight_V_H))
    columns = {"teacher_logprob": teacher_logprob, "advantage": advantage, "old_logprob": old_logprob}
    read = _read(estimator, importance, columns, rows)
    ratio = {"importance": importance, "clip_low": clip_low, "clip_high": clip_high}

    def evaluate(logits_M_V: Tensor, tile: slice) -> tuple[Tensor, dict[str, Tensor]]:
        logp_M_V = log_softmax(logits_M_V, temperature)
        logp_M = taken_logprob(logp_M_V, tokens[tile].long())
        of_tile = {name: column[tile].to(logp_M.dtype) for name, column in read.items()}
        nothing_M = torch.full_like(logp_M.detach(), torch.nan)
        seen = {"teacher_entropy": nothing_M, "teacher_logprob": of_tile.get("teacher_logprob", nothing_M)}
        return _summed(_estimate(estimator, logp_M, of_tile, ratio), coef_A[tile], logp_M_V, tokens[tile], seen)

    loss, signals = chunked_loss(student_hidden, head, _always(evaluate), chunk_rows)
    check_finite(signals, ("student",))
    return LinearDivergence(loss, **signals)


def _always(evaluate: Evaluate) -> Open:
    """For what needs no matrix product of a teacher."""
    return lambda rows: evaluate


def _summed(
    value_M: Tensor, coef_M: Tensor, logp_M_V: Tensor, token_M: Tensor | None, seen: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of a tile, and what is seen of its rows."""
    signals = {"divergence": value_M.detach(), "student_entropy": entropy(logp_M_V.detach()), **seen}
    if token_M is not None:
        signals["student_logprob"] = taken_logprob(logp_M_V.detach(), token_M.long())
    return (coef_M.to(value_M.dtype) * value_M).sum(), signals


def _told(token_M: Tensor, ids_M_K: Tensor, logq_M_K: Tensor) -> Tensor:
    """The teacher's log-probability [M] of the tokens taken, ``nan`` where it does not name them."""
    found_M_K = ids_M_K == token_M.unsqueeze(1)
    return logq_M_K.masked_fill(~found_M_K, 0.0).sum(-1).masked_fill(~found_M_K.any(-1), torch.nan)


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
    value_M: Tensor = k2(taken) if estimator == "k2" else k3(taken)
    return value_M
