"""Who drew the tokens: what the parts of a term take for granted of that, held against how rollout and sources draw.

With p the student's own distribution at the rollout's temperature, and mu that which a token y was drawn from, parts state of y:

``gradient``  y ~ p. Only then is E[A grad log p] of a score function the gradient of its expected reward, of log q - log p that of the
              reverse KL; E[(log p - log q) grad log p] of ``k2`` that of the reverse KL; E[-(q / p) grad log p] of ``k3`` that of the
              forward KL; and only then has ``baseline: value`` the mean 0. Under another mu each row has a factor mu / p too much,
              which p / mu undoes: the weight ``importance``, or a score function's ratio to the behaviour log-probability.
              ``logprobs: recomputed`` mends a reward's value and not who drew the token.
``value``     The behaviour log-probability log mu(y) is the student's log p(y), of a reward log q - log p. With that of the student p_0 as
              it began, E[(p / p_0)(log q - log p_0) grad log p] is the gradient of the mean of log q / p_0, which is largest for a
              student that always takes one token, and is not 0 where p = q. ``logprobs: recomputed`` reads p itself, whoever drew.
``acted``     Log mu(y) is the log p(y) of the student that acted, present or past, of a weight.
``ratio``     mu(y) is known, and above 0 wherever p is: without that p / mu corrects nothing.

Tokens that closed a thought at ``rollout.thinking_budget`` were drawn by nobody: they are context, and no row of any term.

An analytic divergence, the target ``taken`` and the pairs of ``pair_logit`` say nothing of who drew. Of a part of one's own no more is
known than that a score function's reward is read. What holds of tokens that are drawn otherwise than from p:

``cut``        top-p, top-k, greedy: tokens that were left out are never drawn, so no ratio brings them back. Nothing holds.
``stale``      By the student as it began, as it was in earlier steps, or in another run: ``acted`` and ``ratio``.
``mixed``      From (1 - alpha) p + alpha q: ``ratio``.
``sifted``     Kept or taken back by what they are, which mu does not tell: ``value`` and ``acted``.
``other``      By a teacher: ``ratio``.
``unsampled``  By an expert, from records as a prefix, or as a correction: nothing. LUFFY's ``shape`` is an objective of its own for such tokens, f(p) for a reward.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from agentopd.acting import Blended
from agentopd.objective.source import Source
from agentopd.objective.spec import Objective
from agentopd.objective.term import Term
from agentopd.objective.weights import reads_played
from agentopd.rollout.policy import Rollout
from agentopd.settings.choice import Choice
from agentopd.types import CORRECTED, EXPERT, IMPORTED, RECORDED, STUDENT
from agentopd.where import Where

Draw: TypeAlias = Literal["cut", "stale", "mixed", "sifted", "other", "unsampled"]
Statement: TypeAlias = Literal["gradient", "value", "acted", "ratio"]

HOLDS: Mapping[Statement, frozenset[Draw]] = {
    "gradient": frozenset(),
    "value": frozenset({"sifted"}),
    "acted": frozenset({"stale", "sifted"}),
    "ratio": frozenset({"stale", "mixed", "other"}),
}
STALE: Mapping[str, str] = {
    "frozen": "by the student as it began",
    "recorded": "by the student of the run that recorded them",
    "replayed": "by the student of earlier steps",
}
"""By the kind of a source whose episodes are over: whoever drew the student's tokens in them."""
WHOLE = "set rollout.top_p: 1, rollout.top_k: 0 and a rollout.temperature above 0"
IMPORTANCE = "importance"


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens that a term may select, of one actor in one source, which are not simply drawn from p."""

    draw: Draw
    actor: str
    said: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What one part of a term states of the tokens that it works on."""

    key: str
    what: str
    statement: Statement
    remedies: Mapping[Draw, str]
    mended: frozenset[Draw] = frozenset()
    """Draws for which another part of the term makes it true."""
    apart: Callable[[str], bool] = lambda actor: False
    """Actors whose tokens have an objective of their own in this term."""

    def holds(self, drawn: Drawn) -> bool:
        """Whether it is true of these tokens."""
        return drawn.draw in HOLDS[self.statement] | self.mended or self.apart(drawn.actor)


def require_drawn(objective: Objective, rollout: Rollout) -> None:
    """Holds every statement of every term against how its tokens are drawn.

    Raises:
        ValueError: One is false, or a ratio is taken twice. The message names the part, the reason and the remedy.
    """
    for key, term in objective.keyed():
        _require_one_ratio(key, term)
        _require(claims_of(objective, key, term), list(draws(objective, term.where, rollout)))


def require_drawn_by(objective: Objective, source: str, actor: str) -> None:
    """Holds the statements against tokens that records have of another ``actor`` than the student, drawn from by ``source``.

    Raises:
        ValueError: As of :func:`require_drawn`.
    """
    draw: Draw = "unsampled" if actor in (EXPERT, RECORDED, IMPORTED) else "other"
    drawn = Drawn(draw, actor, f"where selects actions of {actor} in {source!r}, which the student did not draw")
    for key, term in objective.keyed():
        if term.where.may_select(source, actor):
            _require(claims_of(objective, key, term), [drawn])


def behaved(objective: Objective, source: str) -> str:
    """The first part of a term over the student's tokens in ``source`` that reads what they were sampled with; empty where none does."""
    terms = [pair for pair in objective.keyed() if pair[1].where.may_select(source, STUDENT)]
    return next((claim.key for key, term in terms for claim in claims_of(objective, key, term)), "")


def claims_of(objective: Objective, key: str, term: Term) -> Iterator[Claim]:
    """The statements of a term, whose key is ``key``, as a part of its objective."""
    return claims(key, term, objective.coupling.kind != "none", objective.weighs_distillation(term))


def _require(claimed: Iterable[Claim], drawn: Iterable[Drawn]) -> None:
    for claim in claimed:
        for one in drawn:
            if not claim.holds(one):
                raise ValueError(f"{claim.key}: {claim.what}, and {one.said}; {claim.remedies[one.draw]}")


def _require_one_ratio(key: str, term: Term) -> None:
    """p / mu may stand in the estimator or in one weight; to a recomputed p it is another ratio, and both multiply to p / mu."""
    if sum(weight.kind == IMPORTANCE for weight in term.weight) > 1:
        raise ValueError(
            f"{key}.weight: it has {{kind: importance}} twice, so the ratio would be squared; leave one out"
        )
    if _has_ratio(term) and _weighed(term):
        importance = term.estimator.settings["importance"]
        raise ValueError(
            f"{key}.estimator.importance={importance}: it multiplies by p over the probability that the token was sampled with, and so does "
            f"the weight importance, so the ratio would be squared; set {key}.estimator.importance: none, or {key}.estimator.logprobs: "
            "recomputed"
        )


# How tokens are drawn.


def draws(objective: Objective, where: Where, rollout: Rollout) -> Iterator[Drawn]:
    """How the tokens are drawn that ``where`` may select, of those that are not simply the student's own."""
    for name, source in objective.sources.items():
        for actor in source.who:
            if where.may_select(name, actor):
                yield from _of_actor(name, source, actor, rollout)
    if CORRECTED in where.source or (objective.learns_from_corrections and not where.source and not where.actor):
        yield Drawn("unsampled", CORRECTED, "where selects corrected actions, which nobody sampled")


def _of_actor(name: str, source: Source, actor: str, rollout: Rollout) -> Iterator[Drawn]:
    acting = source.acting_at_first
    mixed = isinstance(acting.mixing, Blended)
    if actor in (EXPERT, RECORDED):
        whose = "actions of the expert" if actor == EXPERT else "recorded actions that are given again"
        yield Drawn("unsampled", actor, f"where selects {whose}, which nobody sampled")
        return
    if actor != STUDENT and mixed:
        return  # all tokens are the student's
    if left_out := _left_out(rollout):
        yield Drawn("cut", actor, f"rollout.{left_out} leaves tokens out that the model would draw")
    if actor != STUDENT:
        yield Drawn("other", actor, f"where selects actions of {actor}, which are drawn from its own distribution")
    elif mixed:
        yield Drawn("mixed", actor, f"tokens of the source {name!r} are drawn from a mixture with {acting.others[0]}")
    elif not source.plays:
        yield Drawn("stale", actor, f"tokens of the {source.kind} source {name!r} are drawn {STALE[source.kind]}")
    if acting.sifts:
        kind = source.acting.kind
        yield Drawn("sifted", actor, f"acting.kind={kind} of the source {name!r} keeps tokens by what they are")


def _left_out(rollout: Rollout) -> str:
    """The setting by which tokens are never drawn, where there is one."""
    if rollout.temperature == 0.0:
        return "temperature=0"
    return f"top_k={rollout.top_k}" if rollout.top_k else f"top_p={rollout.top_p:g}" if rollout.top_p < 1.0 else ""


# What the parts of a term state.


def claims(key: str, term: Term, coupled: bool = False, apart: bool = False) -> Iterator[Claim]:
    """What the parts of a term state of its tokens: the more far-reaching statement first.

    Args:
        key: Where the term stands.
        term: It.
        coupled: Whether a coupling adds to its advantage, so that it needs one.
        apart: Whether its weights multiply the distilled part of a coupled advantage alone, so that they mend nothing of the rest.
    """
    if term.estimator.kind in GRADIENTS:
        yield _gradient(key, term, coupled, apart)
    if term.scored and term.distributional and term.estimator.settings.get("logprobs", "behaviour") == "behaviour":
        yield _value_of_estimator(key, term)
    if _has_ratio(term):
        no = f"set {key}.estimator.importance: none"
        yield _ratio(f"{key}.estimator.importance={term.estimator.settings['importance']}", key, no)
    for place, weight in term.weights_at(key):
        said = f"{place}.kind={weight.kind}"
        if weight.kind == IMPORTANCE:
            yield _ratio(said, key, "leave it out")
        if reads_played(weight):
            yield _value_of_weight(said, key, weight)


GRADIENTS: Mapping[str, str] = {
    "score_function": "its expected gradient is that of its reward only on tokens that the student itself draws",
    "k2": "its expected gradient is that of the reverse KL only on tokens that the student itself draws",
    "k3": "its expected gradient is that of the forward KL only on tokens that the student itself draws",
}


def _gradient(key: str, term: Term, coupled: bool, apart: bool) -> Claim:
    corrected = (_weighed(term) and not apart) or _has_ratio(term)
    beside = ["objective.coupling.weighted: both"] if apart else []
    beside += [f"{key}.estimator.logprobs: recomputed"] if term.distributional and term.scored else []
    mend = ", with ".join(
        ["set " + beside[0]] if apart and _weighed(term) else [f"add {{kind: importance}} to {key}.weight", *beside]
    )
    analytic = f", or set {key}.estimator.kind: analytic" if term.distributional and not coupled else ""
    own = f"set {key}.where.actor, such as [student]"
    shaped = "" if term.distributional else f", or add {{kind: shape, actor: expert}} to {key}.weight (LUFFY)"
    if shaped and _has_ratio(term):
        shaped += f", with {key}.estimator.importance: none"
    remedies: dict[Draw, str] = {
        "cut": WHOLE + analytic,
        "stale": mend + analytic,
        "mixed": mend + analytic,
        "sifted": f"choose another acting.kind{analytic}",
        "other": f"{own}, or {mend}",
        "unsampled": own + shaped,
    }
    mended = HOLDS["ratio"] if corrected else frozenset()
    what = GRADIENTS[term.estimator.kind]
    return Claim(f"{key}.estimator.kind={term.estimator.kind}", what, "gradient", remedies, mended, _shaped(term))


def _value_of_estimator(key: str, term: Term) -> Claim:
    estimator = term.estimator
    read = _read(f"{key}.estimator.logprobs", estimator)
    if estimator.kind in GRADIENTS and not _weighed(term):  # p is then the student's, and the token still another's
        read += f", and add {{kind: importance}} to {key}.weight"
    what = "its reward log q - log p takes p from what the token was sampled with"
    return Claim(f"{key}.estimator", what, "value", _unless_own(key, read))


def _value_of_weight(said: str, key: str, weight: Choice) -> Claim:
    what = "it takes the student's p from what the token was sampled with"
    return Claim(said, what, "acted", _unless_own(key, _read("its logprobs", weight)))


def _read(logprobs: str, part: Choice) -> str:
    """How a part, whose setting of that name is called ``logprobs`` in the message, reads the student's own p."""
    if "logprobs" in part.settings:
        return f"set {logprobs}: recomputed"
    return f"give {part.kind!r} a setting logprobs and set it to recomputed"


def _unless_own(key: str, read: str) -> Mapping[Draw, str]:
    either = f"{read}, or set {key}.where.actor, such as [student]"
    return {"cut": f"{read}, or {WHOLE}", "stale": read, "mixed": read, "other": either, "unsampled": either}


def _ratio(said: str, key: str, no: str) -> Claim:
    what = "it divides by the probability that the token was sampled with"
    own = f"set {key}.where.actor, such as [student], or {no}"
    return Claim(
        said,
        what,
        "ratio",
        {"cut": f"{WHOLE}, or {no}", "sifted": f"choose another acting.kind, or {no}", "unsampled": own},
    )


def _has_ratio(term: Term) -> bool:
    """Whether a score function multiplies by p over what the token was sampled with."""
    settings = term.estimator.settings
    return settings.get("importance") in ("ratio", "clipped") and settings.get("logprobs", "behaviour") == "behaviour"


def _weighed(term: Term) -> bool:
    return any(weight.kind == IMPORTANCE for weight in term.weight)


def _shaped(term: Term) -> Callable[[str], bool]:
    """Of which actors but the student a reward's tokens are learned by LUFFY's f(p)."""
    shapes: Iterable[str | None] = [w.settings["actor"] for w in term.weight if w.kind == "shape"]
    shapes = () if term.distributional else tuple(shapes)
    return lambda actor: actor != STUDENT and any(only in (None, actor) for only in shapes)
