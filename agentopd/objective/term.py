"""One term of a method as settings: where, towards what, how far, how the gradient is taken, how much each row counts."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from agentopd.objective.alpha_beta import require_sum
from agentopd.objective.apart import ACROSS
from agentopd.objective.contract import callable_as
from agentopd.objective.divergences import DIVERGENCES
from agentopd.objective.estimators import ESTIMATORS, OPTIMISES, REFUSED, VALUE, is_by_token, require_baseline
from agentopd.objective.naming import distributions_of
from agentopd.objective.rewards import REWARDS
from agentopd.objective.supports import SUPPORTS
from agentopd.objective.targets import NO_DISTRIBUTION, TARGETS, is_pointwise
from agentopd.objective.weights import WEIGHTS
from agentopd.settings.base import Settings
from agentopd.settings.choice import Choice, numbers_of
from agentopd.settings.parts import Number, OneOf
from agentopd.types import CORRECTED, STUDENT
from agentopd.where import Where

NOT_NEGATIVE = (
    "a term is minimised, so its coefficient is finite and at least 0 (0 switches it off); to push away from something, flip the "
    "sign where it is made: a negative teachers.<name>.scale of a reward, or an estimator or divergence of your own that returns "
    "the negative"
)
TERM_PARTS = (
    "where", "target", "support", "divergence", "estimator", "weight", "temperature", "rescale", "coefficient",
)  # fmt: skip


def _kind(part: Any, default: str) -> Any:
    """The kind of a part that is not yet validated: a name, a mapping, or an object with a ``kind``."""
    given = part.get("kind") if isinstance(part, Mapping) else getattr(part, "kind", part)
    return default if given is None else given


OPTIONAL = {"support", "divergence", "weight"}
"""Parts of a term that may be null: the first two follow from others then, and there is no weight."""


class Term(Settings):
    """One summand: c * sum(coef * phi), with its own denominator.

    Where the estimator works on sampled tokens, or the target is the taken token, the support is ``sampled`` and the divergence is
    given: reverse KL for the first (``k3``: forward KL), forward KL to a one-hot target for the second. Leave both out, or set them to
    null. A score function may have another divergence of :data:`~agentopd.objective.rewards.REWARDS`, which is its reward then.
    """

    name: str = Field("", pattern="^[^/]*$")
    """Its name in metrics and signals, without a slash."""
    where: Where = Where(actor=(STUDENT,))
    """Which trainable tokens. A ``where`` that is given replaces this one: without an actor it selects those of every actor."""
    target: Annotated[Choice, OneOf("target", TARGETS), callable_as("target")] = Field(
        "distribution", validate_default=True
    )
    """Towards what it learns."""
    support: Annotated[Choice, OneOf("support", SUPPORTS), callable_as("support")] = Field(
        "full", validate_default=True
    )
    """Over which tokens of the vocabulary."""
    divergence: Annotated[Choice, OneOf("divergence", DIVERGENCES), callable_as("divergence")] = Field(
        "forward_kl", validate_default=True
    )
    """How far the student is from the target."""
    estimator: Annotated[Choice, OneOf("estimator", ESTIMATORS), callable_as("estimator")] = Field(
        "analytic", validate_default=True
    )
    """How the gradient is taken."""
    weight: tuple[Annotated[Choice, OneOf("weight", WEIGHTS), callable_as("weight")], ...] = ()
    """How much each token counts; several multiply."""
    temperature: Number = 1.0
    """Student and target are compared at this temperature, above 0, on top of the one that was sampled at; full distributions only."""
    rescale: bool = False
    """Whether weights are rescaled so that the term's coefficients keep their sum."""
    coefficient: Number = 1.0
    """Multiplies the term's loss; at least 0."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Takes a single weight for a list of one and null for none, and adds what follows from other parts."""
        if not isinstance(given, Mapping):
            return given
        given = {name: value for name, value in given.items() if value is not None or name not in OPTIONAL}
        if isinstance(target := given.get("target"), Mapping) and "kind" not in target:
            given["target"] = {"kind": "distribution", **target}
        implied = {}
        if _kind(given.get("target"), "distribution") == "taken":
            implied = {"support": "sampled", "divergence": "forward_kl"}
        elif (kind := _kind(given.get("estimator"), "analytic")) != "analytic":
            implied = {"support": "sampled", "divergence": OPTIMISES.get(str(kind), "reverse_kl")}
        weight = given.get("weight", ())
        return implied | given | {"weight": (weight,) if isinstance(weight, str | Mapping | Choice) else weight}

    @field_validator("estimator", mode="before")
    @classmethod
    def _trains(cls, estimator: Any) -> Any:
        if (kind := str(_kind(estimator, ""))) in REFUSED:
            raise ValueError(f"estimator {kind!r}: {REFUSED[kind]}")
        return estimator

    @field_validator("temperature")
    @classmethod
    def _warm(cls, temperature: Any) -> Any:
        if (least := min(numbers_of(temperature), default=1.0)) <= 0:
            raise ValueError(f"{least} is not above 0, and there is no distribution at such a temperature; give more")
        return temperature

    @field_validator("coefficient")
    @classmethod
    def _minimised(cls, coefficient: Any) -> Any:
        if (least := min(numbers_of(coefficient), default=0.0)) < 0:
            raise ValueError(f"{least} is below 0; {NOT_NEGATIVE}")
        return coefficient

    # The parts against each other, in the order in which they are read: a later check takes the earlier ones for granted.

    @model_validator(mode="after")
    def _target_names_its_teachers(self) -> "Term":
        if self.distributional and not self.reads:
            raise ValueError(
                f"target {self.target.kind!r} names no distribution; give it a setting annotated with agentopd.objective.Distribution"
            )
        if self.target.kind in TARGETS and len(set(self.reads.values())) < len(self.reads):
            reference = self.reads["reference"]
            raise ValueError(
                f"target.reference={reference} is target.name, so {self.target.kind} is that teacher itself; name another, such as the "
                "student as it began, {kind: self}"
            )
        return self

    @model_validator(mode="after")
    def _estimator_fits_the_target(self) -> "Term":
        target, estimator = self.target.kind, self.estimator.kind
        if target == "reward" and not self.scored:
            raise ValueError("target 'reward' has no distribution; set estimator: {kind: score_function}")
        if target == "taken" and not self.analytic:
            raise ValueError("target 'taken' is supervised; set estimator: {kind: analytic}")
        if (self.by_token or estimator == "pair_logit") and target != "distribution":
            raise ValueError(
                f"estimator {estimator!r} compares the student's probability of a token with a teacher's own; set target: "
                "{kind: distribution}"
            )
        if self.distributional and self.scored and not is_pointwise(self.target):
            raise ValueError(
                f"target {target!r} needs whole distributions, and a score function reads the token taken alone; set "
                "estimator: {kind: analytic}, or mark a target of your own with @pointwise"
            )
        return self

    @model_validator(mode="after")
    def _estimator_learns_from_what_was_sampled(self) -> "Term":
        if not self.analytic and CORRECTED in self.where.source:
            raise ValueError(
                f"nobody sampled the corrected actions, so estimator {self.estimator.kind!r} cannot learn from them; set target: "
                "{kind: taken}"
            )
        return self

    @model_validator(mode="after")
    def _estimator_has_its_baseline(self) -> "Term":
        require_baseline(self.estimator.settings, self.target.kind == "distribution", self.distributional)
        return self

    @model_validator(mode="after")
    def _support_carries_signal(self) -> "Term":
        sampled = self.support.kind == "sampled"
        if self.distributional and self.analytic and sampled:
            raise ValueError(
                "an analytic gradient of the sampled token's log-ratio carries no teacher signal (its expectation is zero); "
                "set estimator: {kind: score_function} or {kind: k2}, or support: {kind: full}"
            )
        if self.scored and not sampled:
            raise ValueError(
                f"support {self.support.kind!r} under a score function is a reward that does not depend on the action, so its "
                "gradient is zero; set support: {kind: sampled}, or estimator: {kind: analytic}"
            )
        return self

    @model_validator(mode="after")
    def _divergence_is_the_estimators(self) -> "Term":
        if self.analytic and self.target.kind != "taken":
            return self
        fixed, *others = self._divergences
        if self.divergence.kind not in (fixed, *others) or self.support.kind != "sampled":
            more = "".join(f", or set divergence: {{kind: {kind}}}" for kind in others)
            raise ValueError(
                f"with target {self.target.kind!r} and estimator {self.estimator.kind!r} the divergence is {fixed} on support "
                f"sampled, got {self.divergence.kind!r} on {self.support.kind!r}; leave both out, or set them to null{more}"
            )
        if self.divergence.settings.get("clip") is not None:
            raise ValueError(
                "divergence.clip bounds each vocabulary entry, and the support sampled has one; leave it out, or set support: "
                "{kind: full} with target: {kind: distribution} and estimator: {kind: analytic}"
            )
        return self

    @model_validator(mode="after")
    def _divergence_has_its_powers(self) -> "Term":
        powers = self.divergence.settings.values()
        if self.divergence.kind == "alpha_beta" and sum(isinstance(one, Choice) for one in powers) < 2:
            require_sum(sum(min(numbers_of(one), default=math.inf) for one in powers))
        return self

    @model_validator(mode="after")
    def _temperature_is_read(self) -> "Term":
        if self.temperature != 1.0 and not (self.analytic and self.distributional):
            raise ValueError(
                "temperature: only an analytic divergence from a distribution can be taken at another temperature; set it to 1"
            )
        return self

    def weights_at(self, key: str) -> Iterator[tuple[str, Choice]]:
        """The weights of the term that stands at ``key``, each behind its own key."""
        for n, weight in enumerate(self.weight):
            yield f"{key}.weight" + (f".{n}" if len(self.weight) > 1 else ""), weight

    @property
    def analytic(self) -> bool:
        """Whether the gradient is that of the divergence itself, rather than one through sampled tokens."""
        return self.estimator.kind == "analytic"

    @property
    def _divergences(self) -> list[str]:
        """The divergences that go with sampled tokens or a taken one: the one that is meant, then others."""
        if self.target.kind == "taken":
            return ["forward_kl"]
        fixed = OPTIMISES.get(self.estimator.kind, "reverse_kl")
        rewarded = self.estimator.kind != "pair_logit" and self.scored and self.target.kind == "distribution"
        return [fixed, *sorted(REWARDS.keys() - {fixed})] if rewarded else [fixed]

    @property
    def by_token(self) -> bool:
        """Whether the estimator makes the loss of a row of its token's log-probabilities under student and teacher."""
        return is_by_token(self.estimator.function)

    @property
    def scored(self) -> bool:
        """Whether the gradient is taken by a score function, through an advantage."""
        return not self.analytic and not self.by_token

    @property
    def reads_distribution(self) -> bool:
        """Whether its loss reads a teacher's whole distribution."""
        return self.distributional and (self.analytic or self.estimator.settings.get("baseline") == VALUE)

    @property
    def one_vocabulary(self) -> str | None:
        """The first of its settings that asks teachers for the student's vocabulary, and what to do; ``None`` where they may have another."""
        if not self.reads_distribution:
            return None
        if not self.analytic:
            return "estimator.baseline=value: it is a mean over the student's tokens; set it to batch_mean or none"
        if self.target.kind != "distribution":
            return f"target.kind={self.target.kind}: it is made of distributions over the student's tokens; set target.kind: distribution"
        if self.support.kind != "full":
            return f"support.kind={self.support.kind}: it names the student's tokens; set support.kind: full"
        if self.divergence.kind not in ACROSS:
            return (
                f"divergence.kind={self.divergence.kind}: it compares probabilities of the same tokens; set divergence: {{kind: gold}} or "
                "{kind: uld}, or estimator: {kind: score_function}"
            )
        if self.temperature != 1.0:
            return f"temperature={self.temperature}: it takes whole distributions of every token of a span; set it to 1"
        return None

    @property
    def distributional(self) -> bool:
        """Whether its target is a distribution."""
        return self.target.kind not in NO_DISTRIBUTION

    @property
    def reads(self) -> dict[str, str]:
        """The teachers whose distributions its target is made of, by the settings that name them."""
        return distributions_of(self.target)

    @property
    def teacher(self) -> str | None:
        """The teacher whose word about each row its weights read: the first that its target names; ``None`` without a distribution."""
        return next(iter(self.reads.values()), None)

    @property
    def reward(self) -> str | None:
        """The reward that it is trained towards."""
        return self.target.settings["name"] if self.target.kind == "reward" else None
