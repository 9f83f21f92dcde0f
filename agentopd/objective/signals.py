"""The names of what is seen of each row, in records and in metrics: all of them, in one place.

========================  ============================================================================================
``<term>/coef``           what multiplies the row's loss; 0 where the term leaves the row out
``<term>/weight``         the product of the term's weights, rescaled where the term asks for that
``<term>/advantage``      of a score function
``<term>/divergence``     the loss of a term with a teacher's distribution, in nats
``<term>/nll``            the loss of a term with target ``taken``, in nats
``<term>/surrogate``      the loss of an estimator of sampled tokens: of a score function minus advantage times log-probability, or
                          times a ratio; of ``k2`` and ``k3`` what they say
``current_logprob``       the student's log-probability of the token taken under the weights of the optimiser step, in nats
``student_entropy``       of the same distribution, in nats
``teacher_entropy/<t>``   of each teacher ``<t>`` that gives full distributions, in nats
``student_top/ids``       [A, K]: the likeliest tokens of the student's distribution, the likeliest first, where they are asked for
``student_top/logprob``   [A, K]: their log-probabilities, in nats
========================  ============================================================================================

Three log-probabilities of the token taken are the student's. The *behaviour* one is that of the distribution which the token was
sampled from, top-p and top-k included: ``Segment.logprob_T`` in records, ``Rows.logprob_A``. The *recomputed* one is the learner's, of
one pass before the optimiser step: ``LiveColumns.logprob_A``. The *current* one is differentiated: ``current_logprob``.

The first three come from :attr:`Prepared.signals`, the others from :attr:`LossOutput.signals`, ``nan`` on rows they do not concern.
A term without a name is called ``loss``, or ``term<i>`` where there are several.

Means by turn have, beside some of these, what is told of a teacher's doubts, of :data:`UNCERTAINTY`: ``disagreement/<t>``, how far the
current log-probability of the token taken is from the teacher's, and ``epistemic/<t>`` and ``aleatoric/<t>`` of an ensemble, in nats.
"""

from agentopd.objective.columns import ENSEMBLE
from agentopd.objective.term import Term

CURRENT_LOGPROB = "current_logprob"
STUDENT_ENTROPY = "student_entropy"
STUDENT_TOP_IDS, STUDENT_TOP_LOGPROB = "student_top/ids", "student_top/logprob"
LOSSES = ("divergence", "nll", "surrogate")
"""What the loss of a term may be called."""
WEIGHT = "weight"
CENTRE = "centre"
"""Of a term whose loss is a divergence, among the metrics of a step: the turn, from 1, at which it lies on average."""
UNCERTAINTY = ("disagreement", *ENSEMBLE)


def loss_of(term: Term) -> str:
    """What the loss phi of ``term`` is."""
    if not term.analytic:
        return "surrogate"
    return "nll" if term.target.kind == "taken" else "divergence"


def teacher_entropy(teacher: str) -> str:
    """The name of a teacher's entropy."""
    return f"teacher_entropy/{teacher}"
