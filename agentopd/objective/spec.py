"""A method as settings: sources, terms, an aggregate and a coupling."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from agentopd.objective.advantages import COUPLINGS, OUTCOME
from agentopd.objective.aggregates import AGGREGATES
from agentopd.objective.alpha_beta import require_sum
from agentopd.objective.contract import callable_as
from agentopd.objective.divergences import DIVERGENCES
from agentopd.objective.estimators import ESTIMATORS
from agentopd.objective.supports import SUPPORTS
from agentopd.objective.weights import WEIGHTS
from agentopd.settings.choice import Choice, Number, OneOf, Settings, numbers_of
from agentopd.types import CORRECTED, STUDENT
from agentopd.where import Where

NOT_NEGATIVE = (
    "a term is minimised, so its coefficient is finite and at least 0 (0 switches it off); to push away from something, flip the "
    "sign where it is made: a negative teachers.<name>.scale of a reward, or an estimator or divergence of your own that returns "
    "the negative"
)
GROUPED = {"group_mean", "group_normalised"}
TERM_PARTS = ("where", "target", "support", "divergence", "estimator", "weight", "rescale", "coefficient")


def _kind(part: Any, default: str) -> Any:
    """The kind of a part that is not yet validated: a name, a mapping, or an object with a ``kind``."""
    given = part.get("kind") if isinstance(part, Mapping) else getattr(part, "kind", part)
    return default if given is None else given


class Target(Settings):
    """Towards what: the taken token itself, a teacher's distribution, or a reward."""

    kind: Literal["taken", "distribution", "reward"] = "distribution"
    name: str = "teacher"
    """Which teacher's distribution or reward; for rewards also ``outcome``."""

    @model_validator(mode="before")
    @classmethod
    def _default_reward(cls, given: Any) -> Any:
        is_reward = isinstance(given, Mapping) and given.get("kind") == "reward"
        return {"name": OUTCOME} | dict(given) if is_reward else given


IMPLIED = {"support", "divergence"}
"""Parts of a term that follow from others where they are left out or null."""


class Term(Settings):
    """One summand: c * sum(coef * phi), with its own denominator.

    Where the estimator is a score function, or the target the taken token, the support is ``sampled`` and the divergence is
    given: reverse KL for the first, forward KL to a one-hot target for the second. Leave both out, or set them to null.
    """

    name: str = Field("", pattern="^[^/]*$")
    """Its name in metrics and signals, without a slash."""
    where: Where = Where(actor=(STUDENT,))
    """Which trainable tokens. A ``where`` that is given replaces this one: without an actor it selects those of every actor."""
    target: Target = Target()
    support: Annotated[Choice, OneOf("support", SUPPORTS), callable_as("support")] = Field(
        "full", validate_default=True
    )
    divergence: Annotated[Choice, OneOf("divergence", DIVERGENCES), callable_as("divergence")] = Field(
        "forward_kl", validate_default=True
    )
    estimator: Annotated[Choice, OneOf("estimator", ESTIMATORS), callable_as("estimator")] = Field(
        "analytic", validate_default=True
    )
    weight: tuple[Annotated[Choice, OneOf("weight", WEIGHTS), callable_as("weight")], ...] = ()
    rescale: bool = False
    """Whether weights are rescaled so that the term's coefficients keep their sum."""
    coefficient: Number = 1.0
    """Multiplies the term's loss; at least 0."""

    @field_validator("coefficient")
    @classmethod
    def _minimised(cls, coefficient: Any) -> Any:
        if (least := min(numbers_of(coefficient), default=0.0)) < 0:
            raise ValueError(f"{least} is below 0; {NOT_NEGATIVE}")
        return coefficient

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Takes a single weight for a list of one, and adds what follows from other parts."""
        if not isinstance(given, Mapping):
            return given
        given = {name: value for name, value in given.items() if value is not None or name not in IMPLIED}
        implied = {}
        if _kind(given.get("target"), "distribution") == "taken":
            implied = {"support": "sampled", "divergence": "forward_kl"}
        elif _kind(given.get("estimator"), "analytic") != "analytic":
            implied = {"support": "sampled", "divergence": "reverse_kl"}
        weight = given.get("weight", ())
        return implied | dict(given) | {"weight": (weight,) if isinstance(weight, str | Mapping | Choice) else weight}

    @model_validator(mode="after")
    def _carries_signal(self) -> "Term":
        analytic, sampled = self.estimator.kind == "analytic", self.support.kind == "sampled"
        if self.target.kind == "reward" and analytic:
            raise ValueError("target 'reward' has no distribution; set estimator: {kind: score_function}")
        if self.target.kind == "taken" and not analytic:
            raise ValueError("target 'taken' is supervised; set estimator: {kind: analytic}")
        if self.target.kind == "distribution" and analytic and sampled:
            raise ValueError(
                "an analytic gradient of the sampled token's log-ratio carries no teacher signal (its expectation is zero); "
                "set estimator: {kind: score_function}, or support: {kind: full}"
            )
        settings = self.support.settings
        if settings.get("tail") and (settings.get("normalise_teacher") or settings.get("normalise_student")):
            raise ValueError("a tail bucket already makes both sides sum to one; set support.tail: false to normalise")
        powers = self.divergence.settings
        if self.divergence.kind == "alpha_beta" and not any(isinstance(one, Choice) for one in powers.values()):
            require_sum(sum(powers.values()))
        if not analytic and not sampled:
            raise ValueError(
                f"support {self.support.kind!r} under a score function is a reward that does not depend on the action, so its "
                "gradient is zero; set support: {kind: sampled}, or estimator: {kind: analytic}"
            )
        return self

    @model_validator(mode="after")
    def _agrees(self) -> "Term":
        taken = self.target.kind == "taken"
        fixed = "forward_kl" if taken else "reverse_kl"
        if (taken or self.scored) and (self.divergence.kind != fixed or self.support.kind != "sampled"):
            raise ValueError(
                f"with target {self.target.kind!r} and estimator {self.estimator.kind!r} the divergence is {fixed} on support "
                f"sampled, got {self.divergence.kind!r} on {self.support.kind!r}; leave both out, or set them to null"
            )
        if (taken or self.scored) and self.divergence.settings.get("clip") is not None:
            raise ValueError(
                "divergence.clip bounds each vocabulary entry, and the support sampled has one; leave it out, or set support: "
                "{kind: full} with target: {kind: distribution} and estimator: {kind: analytic}"
            )
        if self.scored and CORRECTED in self.where.source:
            raise ValueError(
                "nobody sampled the corrected actions, so a score function cannot learn from them; set target: {kind: taken}"
            )
        settings = self.estimator.settings
        discounts = [settings[name] for name in ("gamma", "turn_gamma") if settings.get(name) is not None]
        local = not discounts and self.target.kind == "distribution"
        if settings.get("baseline") in GROUPED and (local or any(one != 1.0 for one in discounts)):
            raise ValueError(
                f"baseline {settings['baseline']!r} compares the total rewards of episodes with undiscounted returns; set gamma "
                "and turn_gamma to 1, or baseline: batch_mean"
            )
        return self

    @property
    def scored(self) -> bool:
        """Whether the gradient is taken by a score function, through an advantage."""
        return self.estimator.kind != "analytic"


class Source(Settings):
    """Where trajectories come from."""

    kind: Literal["fresh", "frozen"] = "fresh"
    """``fresh``: new episodes at every step. ``frozen``: ``episodes`` episodes made once and drawn from again."""
    actors: dict[str, Number] = {STUDENT: 1.0}
    """Who acts, each with its share of the episodes."""
    per_task: int = Field(1, ge=1)
    """Episodes of the same task, for baselines by group."""
    share: float = Field(1.0, gt=0.0)
    """Share of the batch's tasks, relative to the other sources."""
    episodes: int = Field(512, ge=1)

    @model_validator(mode="after")
    def _somebody_acts(self) -> "Source":
        numbers = {actor: numbers_of(share) for actor, share in self.actors.items()}
        nobody = all(found and not any(found) for found in numbers.values())  # one's own schedule may give anything
        if nobody or any(share < 0 for found in numbers.values() for share in found):
            raise ValueError(
                f"actors={self.actors}: shares must be at least 0, and one of them above, such as {{student: 1.0}}"
            )
        return self


class Objective(Settings):
    """A method: who acts, what is learned from it, and how it is averaged."""

    title: str = ""
    paper: str = ""
    axes: dict[str, str] = {}
    """Its place on the three axes: signal, access, granularity."""
    notes: str = ""
    sources: dict[str, Source] = {"fresh": Source()}
    terms: tuple[Term, ...] = (Term(),)
    aggregate: Annotated[Choice, OneOf("aggregate", AGGREGATES), callable_as("aggregate")] = Field(
        "token", validate_default=True
    )
    coupling: Annotated[Choice, OneOf("coupling", COUPLINGS), callable_as("coupling")] = Field(
        "none", validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _unfold(cls, given: Any) -> Any:
        """Lets the parts of a single term, and of a single source, stand at the root."""
        if not isinstance(given, Mapping):
            return given
        root = dict(given)
        parts = {name: root.pop(name) for name in TERM_PARTS if name in root}
        if "sampler" in root:
            if "sources" in root:
                raise ValueError("give either sampler (one source) or sources, not both")
            root["sources"] = {"fresh": root.pop("sampler")}
        terms = root.get("terms", ({},))
        if not isinstance(terms, list | tuple) or not all(isinstance(term, Mapping | Term) for term in terms):
            return root  # refused by its own path
        if parts and len(terms) != 1:
            raise ValueError(
                f"{', '.join(parts)} at the root belong to a method of one term; this one has {len(terms)}: use terms"
            )
        if parts:
            root["terms"] = [{**_mapping(terms[0]), **parts}]
        return root

    @model_validator(mode="after")
    def _coupled_to_something(self) -> "Objective":
        if not self.terms:
            raise ValueError("a method needs at least one term")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"two terms share a name among {', '.join(self.names)}; their metrics would be one")
        if self.coupling.kind != "none" and not any(t.scored and t.target.kind == "distribution" for t in self.terms):
            raise ValueError(
                f"coupling {self.coupling.kind!r} adds to an advantage, and no term here has one; "
                "set estimator: {kind: score_function} and support: {kind: sampled}, or give the reward a term of its own"
            )
        return self

    @model_validator(mode="after")
    def _has_groups(self) -> "Objective":
        parts = (self.coupling, *(term.estimator for term in self.terms))
        grouped = [part.settings["baseline"] for part in parts if part.settings.get("baseline") in GROUPED]
        if grouped and all(source.per_task == 1 for source in self.sources.values()):
            raise ValueError(
                f"baseline {grouped[0]!r} compares episodes of one task, and every source has per_task: 1, so each "
                "advantage would be zero; set sampler.per_task to 2 or more"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each term in metrics and signals."""
        single = len(self.terms) == 1
        return tuple(term.name or ("loss" if single else f"term{i}") for i, term in enumerate(self.terms))

    def key(self, i: int) -> str:
        """Where the parts of term ``i`` stand in a configuration."""
        return "objective" if len(self.terms) == 1 else f"objective.terms.{i}"

    def teachers(self) -> set[str]:
        """Names of the teachers that the terms and the coupling read."""
        named = {t.target.name for t in self.terms if t.target.kind != "taken"}
        return (named | {self.coupling.settings.get("reward_name", OUTCOME)}) - {OUTCOME}

    @property
    def needs_live(self) -> bool:
        """Whether prepare needs the pass without gradient."""
        weights = any(getattr(w.function, "needs_live", False) for t in self.terms for w in t.weight)
        return weights or any(t.estimator.settings.get("logprobs") == "recomputed" for t in self.terms)


def _mapping(term: Any) -> Mapping[str, Any]:
    return term.model_dump(exclude_unset=True) if isinstance(term, Term) else term
