"""Weights: how much each row of a term counts.

A weight is a function of the term's rows and of what its teacher said about them (``None`` for a term without a teacher), and
returns [A], finite and non-negative. Several weights multiply. One's own is named by import path:
``weight: {kind: "package.module:name"}``. A weight that reads ``rows.live`` is marked with :func:`needs_live`.

What they share: ``named.py`` has the statistics by name, ``marks.py`` what marks a weight with those that it needs, ``grouping.py``
turns, trajectories and siblings, ``curves.py`` what makes a weight of a statistic.
"""

from agentopd.objective.weights.curves import decay, gate, soft_or, top_share
from agentopd.objective.weights.marks import asks, needs_live, reads_group, reads_live, reads_played
from agentopd.objective.weights.ratios import importance
from agentopd.objective.weights.tokens import shape, tip, without_tokens
from agentopd.objective.weights.trajectories import pass_rate, reward_softmax, scope
from agentopd.objective.weights.turns import iw_opd, reliability, sod, t_dur, until_mistake
from agentopd.objective.weights.uncertainty import (
    aleatoric,
    disagreement,
    epistemic,
    student_entropy,
    teacher_confidence,
    teacher_entropy,
    top_k_coverage,
    uniform,
)
from agentopd.settings.signature import Registry

WEIGHTS: Registry = {
    "uniform": uniform,
    "teacher_entropy": teacher_entropy,
    "teacher_confidence": teacher_confidence,
    "top_k_coverage": top_k_coverage,
    "epistemic": epistemic,
    "aleatoric": aleatoric,
    "student_entropy": student_entropy,
    "disagreement": disagreement,
    "decay": decay,
    "gate": gate,
    "top_share": top_share,
    "soft_or": soft_or,
    "tip": tip,
    "shape": shape,
    "importance": importance,
    "without_tokens": without_tokens,
    "sod": sod,
    "t_dur": t_dur,
    "iw_opd": iw_opd,
    "reliability": reliability,
    "until_mistake": until_mistake,
    "pass_rate": pass_rate,
    "reward_softmax": reward_softmax,
    "scope": scope,
}

__all__ = ["WEIGHTS", "asks", "needs_live", "reads_group", "reads_live", "reads_played"]
