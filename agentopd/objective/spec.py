"""A method as settings: sources, terms, an aggregate and a coupling."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from agentopd.objective.advantages import COUPLINGS, OUTCOME
from agentopd.objective.aggregates import AGGREGATES
from agentopd.objective.contract import callable_as
from agentopd.objective.estimators import GROUPED, VALUE
from agentopd.objective.naming import teachers_of
from agentopd.objective.source import Source
from agentopd.objective.term import TERM_PARTS, Term
from agentopd.objective.weights import reads_group, reads_live
from agentopd.settings.base import Settings
from agentopd.settings.choice import Choice, choices_in
from agentopd.settings.parts import OneOf
from agentopd.settings.problems import nearest
from agentopd.types import CORRECTED


class Axes(Settings):
    """A method's place on the three axes; it may have several on each."""

    signal: tuple[Literal["logits", "outcomes", "self-play"], ...] = ()
    """What the student learns from."""
    access: tuple[Literal["white-box", "black-box", "teacher-free"], ...] = ()
    """What is seen of the teacher."""
    granularity: tuple[Literal["token", "turn", "sequence", "hybrid"], ...] = ()
    """What one judgement is about."""


AXES = tuple(Axes.model_fields)
SIGNALS, ACCESS, GRANULARITY = (get_args(get_args(axis.annotation)[0]) for axis in Axes.model_fields.values())


class Objective(Settings):
    """A method: who acts, what is learned from it, and how it is averaged."""

    title: str = ""
    """What the method is called."""
    paper: str = ""
    """Where it is published."""
    axes: Axes = Axes()
    """Its place among methods, for ``agentopd methods``."""
    formula: str = ""
    """What is minimised, in plain text."""
    chosen: str = ""
    """What was chosen where a published detail was missing, or is done otherwise here."""
    needs: str = ""
    """What it needs that does not exist yet; such a method is refused."""
    notes: str = ""
    """Anything else worth saying."""
    sources: dict[str, Source] = {"fresh": Source()}
    """Where episodes come from, by names that ``where`` can select by; ``sampler`` for a single one."""
    terms: tuple[Term, ...] = (Term(),)
    """What is summed; the parts of a single one may stand at the root."""
    aggregate: Annotated[Choice, OneOf("aggregate", AGGREGATES), callable_as("aggregate")] = Field(
        "token", validate_default=True
    )
    """How a term's rows are averaged."""
    coupling: Annotated[Choice, OneOf("coupling", COUPLINGS), callable_as("coupling")] = Field(
        "none", validate_default=True
    )
    """How a reward joins the advantages of distillation."""

    @model_validator(mode="before")
    @classmethod
    def _unfold(cls, given: Any) -> Any:
        """Lets the parts of a single term, and of a single source, stand at the root; ``sampler`` or ``sources`` may be null for not given."""
        if not isinstance(given, Mapping):
            return given
        root = {name: part for name, part in given.items() if part is not None or name not in ("sampler", "sources")}
        parts = {name: root.pop(name) for name in TERM_PARTS if name in root}
        if "sampler" in root:
            if "sources" in root:
                raise ValueError(
                    "give either sampler (one source) or sources, not both; set the one that the method brings to null, such as "
                    "objective.sampler: null"
                )
            root["sources"] = {"fresh": root.pop("sampler")}
        terms = root.get("terms", ({},))
        if not isinstance(terms, list | tuple) or not all(isinstance(term, Mapping | Term) for term in terms):
            return root  # refused by its own path
        if parts and len(terms) != 1:
            raise ValueError(_for_one_term(next(iter(parts)), terms))
        if parts:
            root["terms"] = [{**_mapping(terms[0]), **parts}]
        return root

    @field_validator("needs")
    @classmethod
    def _can_run(cls, needs: str) -> str:
        if needs:
            raise ValueError(f"this method needs {needs}; choose another (agentopd methods lists those that run)")
        return needs

    @model_validator(mode="after")
    def _coupled_to_something(self) -> "Objective":
        if not self.terms:
            raise ValueError("a method needs at least one term")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"two terms share a name among {', '.join(self.names)}; their metrics would be one")
        if self.coupling.kind != "none" and not any(t.scored and t.distributional for t in self.terms):
            raise ValueError(
                f"coupling {self.coupling.kind!r} adds to an advantage, and no term here has one; "
                "set estimator: {kind: score_function} and support: {kind: sampled}, or give the reward a term of its own"
            )
        return self

    @model_validator(mode="after")
    def _has_its_own_baseline(self) -> "Objective":
        if self.coupling.kind != "none" and any(t.estimator.settings.get("baseline") == VALUE for t in self.terms):
            raise ValueError(
                f"baseline 'value' is the mean of the log-ratio alone, and coupling {self.coupling.kind!r} adds to it; give the reward a "
                "term of its own, or set estimator.baseline: none"
            )
        return self

    @model_validator(mode="after")
    def _has_groups(self) -> "Objective":
        parts = (self.coupling, *(term.estimator for term in self.terms))
        grouped = [part.settings["baseline"] for part in parts if part.settings.get("baseline") in GROUPED]
        alone = all(source.per_task == 1 for source in self.sources.values())
        if grouped and alone:
            raise ValueError(
                f"baseline {grouped[0]!r} compares episodes of one task, and every source has per_task: 1, so each "
                "advantage would be zero; set sampler.per_task to 2 or more"
            )
        compared = [weight.kind for term in self.terms for weight in term.weight if reads_group(weight)]
        if compared and alone:
            raise ValueError(
                f"weight {compared[0]!r} compares episodes of one task, and every source has per_task: 1, so it would tell them "
                "nothing of each other; set sampler.per_task to 2 or more"
            )
        return self

    @model_validator(mode="after")
    def _has_pairs(self) -> "Objective":
        for key, term in self.keyed():
            if term.estimator.kind == "pair_logit":
                require_pairs(key, term, self.sources)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each term in metrics and signals."""
        single = len(self.terms) == 1
        return tuple(term.name or ("loss" if single else f"term{i}") for i, term in enumerate(self.terms))

    def key(self, i: int) -> str:
        """Where the parts of term ``i`` stand in a configuration."""
        return "objective" if len(self.terms) == 1 else f"objective.terms.{i}"

    def keyed(self) -> Iterator[tuple[str, Term]]:
        """The terms, each behind the key at which its parts stand."""
        return ((self.key(i), term) for i, term in enumerate(self.terms))

    def weighs_distillation(self, term: Term) -> bool:
        """Whether the weights of ``term`` multiply its part of a coupled advantage, rather than the loss of a row."""
        coupled = term.scored and term.distributional
        return coupled and self.coupling.settings.get("weighted") == "distillation"

    def teachers(self) -> set[str]:
        """Names of the teachers that the parts read: those of settings annotated as ``TeacherName`` or ``Distribution``."""
        parts = choices_in((self.terms, self.aggregate, self.coupling))
        return {name for part in parts for name in teachers_of(part)} - {OUTCOME}

    @property
    def learns_from_corrections(self) -> bool:
        """Whether a term learns from what a teacher would have done in the student's place; else no teacher is asked to correct."""
        return any(CORRECTED in term.where.source for term in self.terms)

    @property
    def needs_live(self) -> bool:
        """Whether prepare needs the pass without gradient."""
        weights = [weight for term in self.terms for weight in term.weight]
        numbers = [choice for choice in choices_in(self.terms) if choice.by_row]
        recomputed = any(term.estimator.settings.get("logprobs") == "recomputed" for term in self.terms)
        return recomputed or any(map(reads_live, [*weights, *numbers]))


def _mapping(term: Any) -> Mapping[str, Any]:
    return term.model_dump(exclude_unset=True) if isinstance(term, Term) else term


def require_pairs(key: str, term: Term, sources: Mapping[str, Source]) -> None:
    """Raises ValueError where the term at ``key``, of ``pair_logit``, could never find a chosen and a rejected episode of one task."""
    chosen, acted = term.estimator.settings["chosen"], [(s, a) for s, one in sources.items() for a in one.who]
    known = {*sources, *(actor for _, actor in acted)}
    if chosen not in known:
        raise ValueError(
            f"{key}.estimator.chosen={chosen}: no source or actor is called that{nearest(chosen, known)}; there "
            f"are: {', '.join(sorted(known))}"
        )
    if [source.per_task for source in sources.values()] == [1]:
        raise ValueError(
            f"{key}.estimator.kind=pair_logit: pairs are of episodes of one task, and the source has per_task: 1, so there would be "
            "none; set sampler.per_task to 2 or more"
        )
    sides = {chosen in pair for pair in acted if term.where.may_select(*pair)}
    if sides == {True}:
        raise ValueError(
            f"{key}.where selects chosen={chosen} alone, so no pair has a rejected episode; select another actor or source too"
        )
    if sides != {True, False}:
        raise ValueError(
            f"{key}.where leaves chosen={chosen} out, so no pair has a chosen episode; set {key}.where.actor or {key}.where.source so that "
            "both sides are selected"
        )


def _for_one_term(part: str, terms: Sequence[Any]) -> str:
    """What is said of a part at the root of a method of several terms, or of none."""
    named = [(f"objective.terms.{i}.{part}", _mapping(term).get("name") or f"term{i}") for i, term in enumerate(terms)]
    keys = " or ".join(f"{key} (of {name})" for key, name in named) or "the parts of a term in objective.terms"
    return f"{part} at the root belongs to a method of one term, and this one has {len(terms)}; set {keys}"
