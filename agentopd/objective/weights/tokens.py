"""Weights of single tokens."""

from typing import Literal

import numpy as np

from agentopd.objective.columns import Reals, TeacherColumns
from agentopd.objective.naming import TeacherName
from agentopd.objective.rows import Rows
from agentopd.objective.weights.curves import either
from agentopd.objective.weights.grouping import Within, group, largest, min_max
from agentopd.objective.weights.marks import needs_live, needs_statistics
from agentopd.objective.weights.named import Positive, Share, ask


@needs_statistics("student_entropy", "disagreement")
@needs_live
def tip(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    share: Share = 0.5,
    within: Within = "batch",
    of: TeacherName | None = None,
) -> Reals:
    """1 on the ``share`` of rows with the largest u = 1 - (1 - h)(1 - d), else 0 (TIP, arXiv 2604.14084, eq. 7-9).

    h is the student's entropy and d how far student and teacher are apart, both as the student is now and min-max normalised: kept
    are tokens of which it is unsure, and those of which it is wrongly sure. The paper's d is a divergence of whole distributions, which
    is not known before a batch is cut; here it is abs(log p - log q) of the token taken, an estimate of it. The authors' code draws
    rows at random instead; this is the paper's rule.

    Args:
        rows: The rows of the term; floor(share * rows) are kept, at least one, and those that tie with the last.
        teacher: What the term's teacher said.
        share: rho. With ``rescale`` the loss is the mean over the rows kept.
        within: Where least and most of h and d are looked for; the share is always of the batch.
        of: Another teacher to ask than the term's.
    """
    group_A = group(rows, within)
    h_A = min_max(ask(rows, teacher, "student_entropy"), group_A)
    d_A = min_max(ask(rows, teacher, "disagreement", of=of, logprobs="recomputed"), group_A)
    return largest(either(h_A, d_A), share).astype(np.float64)


@needs_statistics("surprisal")
@needs_live
def shape(rows: Rows, teacher: TeacherColumns | None, *, gamma: Positive = 0.1, actor: str | None = None) -> Reals:
    """gamma p / (p + gamma)^2 of the token taken: policy shaping (LUFFY, arXiv 2504.14945).

    LUFFY maximises A f(p) with f(p) = p / (p + gamma) on tokens that another policy took. The gradient of f is this number times that
    of log p, so on a term with target ``taken`` it is the gradient of -f. It is largest at p = gamma, and fades where the student would
    hardly take the token and where it would anyway. p is the student's as it is now. With ``actor`` the tokens of others keep 1.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        gamma: The probability at which it is largest.
        actor: Whose tokens are shaped; ``null`` for all.
    """
    p_A = np.exp(ask(rows, teacher, "surprisal", logprobs="recomputed") * -1.0)
    weight: Reals = gamma * p_A / (p_A + gamma) ** 2
    return weight if actor is None else np.where(rows.actor_A == actor, weight, 1.0)


def without_tokens(rows: Rows, teacher: TeacherColumns | None, *, ids: list[int] | Literal["special"]) -> Reals:
    """0 on some token ids, 1 on all others: a mask on special tokens (Revisiting OPD, arXiv 2603.25562).

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        ids: Those left out; ``special`` for all that are special tokens of the student's tokenizer.
    """
    if ids != "special":
        return (~np.isin(rows.token_A, ids)).astype(np.float64)
    if rows.special is None:
        raise ValueError("ids=special: these rows were not told which ids are special; call rows.with_special(ids)")
    return (~np.isin(rows.token_A, rows.special)).astype(np.float64)
