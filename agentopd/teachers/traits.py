"""What a kind of teacher says of itself, before a teacher of it is made: the checks of a run ask this, never the kind's name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

from agentopd.errors import ConfigError
from agentopd.settings.choice import Choice
from agentopd.settings.problems import nearest

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Marks the function of a kind, as ``@Traits(model=True)``. The defaults are those of a function that is not marked."""

    model: bool = False
    """It is a model in this process. Its settings ``model`` and ``new``, of which it may lack one, and ``dtype`` and ``attention``,
    where it has them, mean what they mean for any model; it asks ``context.load`` for that model."""
    initial: bool = False
    """Where it is given neither ``model`` nor ``new``, or has neither setting, it is the student, as it began or as it was since."""
    hint: bool = False
    """The model is shown its setting ``hint``, where it reads and where it acts, in the environments of its ``where``."""
    corrects: bool = True
    """It may give corrected actions. Whether it does is known once the teacher is made, by its ``corrects``."""
    distributes: bool = True
    """It may give distributions over tokens: be a target, or be asked by a weight."""
    rewards: bool = True
    """It may give turns rewards."""
    statistics: tuple[str, ...] | None = None
    """The statistics that it tells of each row beside those of its log-probabilities; ``None``: known once it has spoken."""
    needs_expert: bool = False
    """It asks the environment's expert."""
    members: bool = False
    """It reads what the models that its setting ``members`` names said, other teachers of the run: see ``base.Combining``."""
    metrics: tuple[str, ...] | None = None
    """What its ``metrics`` may tell; ``None``: known once it has spoken."""
    check: Callable[[Mapping[str, Any], float], None] | None = None
    """Looks at its settings before anything is fitted, and at the temperature of the run: what is wrong with them is a ConfigError."""
    adjustable: tuple[str, ...] = ()
    """Settings that a resumed run may give other values: they decide how much is asked and how, never what is learned."""

    def __call__(self, function: F) -> F:
        """Marks ``function``.

        Raises:
            TypeError: It lacks a setting that it is marked with, or the marks do not go together.
        """
        name, settings = getattr(function, "__name__", repr(function)), inspect.signature(function).parameters
        if (self.initial or self.hint) and not self.model:
            raise TypeError(f"{name}: initial and hint are marks of a model; mark it with model=True too")
        if self.model and not self.initial and not settings.keys() & {"model", "new"}:
            raise TypeError(f"{name} is marked with model=True; give it a setting model, new or both")
        if self.hint and "hint" not in settings:
            raise TypeError(f"{name} is marked with hint=True; give it the setting hint")
        if self.members and (self.model or "members" not in settings):
            raise TypeError(f"{name} is marked with members=True; give it the setting members, and no mark of a model")
        function.traits = self  # type: ignore[attr-defined]
        return function


@dataclass(frozen=True, slots=True)
class TraitsBy:
    """Marks the function of a kind whose traits depend on its settings, as ``@TraitsBy(lambda settings: Traits(...))``."""

    told: Callable[[Mapping[str, Any]], Traits]
    """From the settings, defaults included, to the traits."""

    def __call__(self, function: F) -> F:
        """Marks ``function``."""
        function.traits = self  # type: ignore[attr-defined]
        return function


def traits_of(choice: Choice) -> Traits:
    """What the kind of a chosen teacher says of itself."""
    found = getattr(choice.function, "traits", None)
    if isinstance(found, TraitsBy):
        return found.told(choice.settings)
    return found if isinstance(found, Traits) else Traits()


def depends_on_settings(choice: Choice) -> bool:
    """Whether another teacher of the same kind may have other traits."""
    return isinstance(getattr(choice.function, "traits", None), TraitsBy)


def members_of(choice: Choice) -> tuple[str, ...]:
    """The names of the teachers that a chosen teacher reads; none for most."""
    return tuple(choice.settings["members"]) if traits_of(choice).members else ()


def require_members(choices: Mapping[str, Choice]) -> None:
    """Looks at who reads whom among the teachers ``choices``.

    Raises:
        ConfigError: One reads fewer than two, the same twice, one that does not exist, or one that is no model in this process,
            such as itself or another that reads teachers.
    """
    for name, choice in choices.items():
        if not traits_of(choice).members:
            continue
        key, members = f"teachers.{name}.members", members_of(choice)
        models = [other for other, one in choices.items() if traits_of(one).model]
        known = f"those that are models in this process: {', '.join(models) or 'none'}"
        if len(members) < 2 or len(set(members)) < len(members):
            raise ConfigError(f"{key}={list(members)}: give at least two different teachers; {known}")
        for member in members:
            if member not in choices:
                raise ConfigError(f"{key}: no teacher is called {member!r}{nearest(member, choices)}; {known}")
            if member not in models:
                what = "the ensemble itself" if member == name else f"of kind {choices[member].kind}"
                raise ConfigError(f"{key}: {member!r} is {what}, which is no model in this process; give {known}")
        for one, other in combinations(members, 2):
            if choices[one] == choices[other]:
                raise ConfigError(
                    f"{key}: {one!r} and {other!r} are one model twice, which agrees with itself; give them a different model, hint or "
                    "new.seed"
                )
