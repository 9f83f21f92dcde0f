"""The objective: from rows and what teachers said of them to one loss.

Divergences:      ``divergence`` on logits, ``linear_divergence`` fused from hidden states, ``sparse_linear_divergence`` from a teacher's top-k,
                  ``sampled_linear_divergence`` from its log-probability of the token taken.
A method:         ``Objective`` and its ``Term``, ``Source``.
A global batch:   ``Rows`` of records, ``prepare`` to coefficients, ``cut`` to micro-batches.
A micro-batch:    ``loss``, and ``statistics`` of the student or a teacher without gradient.
One's own parts:  functions of ``Rows``, ``TeacherColumns``, ``Scored``, ``Taken`` and ``TeacherRows``; ``docs/objective.md`` has the contracts.
"""

from agentopd.objective.advantages import Scored
from agentopd.objective.batch import Batch, cut
from agentopd.objective.chunked import statistics
from agentopd.objective.columns import Episodes, LiveColumns, TeacherColumns
from agentopd.objective.divergences import divergence
from agentopd.objective.estimators import Taken, by_token
from agentopd.objective.head import Head
from agentopd.objective.linear import LinearDivergence, linear_divergence
from agentopd.objective.linear_partial import sampled_linear_divergence, sparse_linear_divergence
from agentopd.objective.loss import LossOutput, loss
from agentopd.objective.naming import Distribution, TeacherName
from agentopd.objective.numbers import per_row
from agentopd.objective.prepare import Prepared, PreparedTerm, prepare
from agentopd.objective.rows import Rows
from agentopd.objective.source import Source
from agentopd.objective.spec import Objective
from agentopd.objective.supports import TeacherRows
from agentopd.objective.targets import pointwise
from agentopd.objective.term import Term
from agentopd.objective.weights import needs_live

__all__ = [
    "Batch",
    "Distribution",
    "Episodes",
    "Head",
    "LinearDivergence",
    "LiveColumns",
    "LossOutput",
    "Objective",
    "Prepared",
    "PreparedTerm",
    "Rows",
    "Scored",
    "Source",
    "Taken",
    "TeacherColumns",
    "TeacherName",
    "TeacherRows",
    "Term",
    "by_token",
    "cut",
    "divergence",
    "linear_divergence",
    "loss",
    "needs_live",
    "per_row",
    "pointwise",
    "prepare",
    "sampled_linear_divergence",
    "sparse_linear_divergence",
    "statistics",
]
