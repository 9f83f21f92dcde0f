"""What a kind of teacher says of itself, before a teacher of it is made: the checks of a run ask this, never the kind's name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from agentopd.errors import ConfigError
from agentopd.settings.choice import Choice, plain
from agentopd.settings.problems import nearest
from agentopd.types import Whose

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Examined:
    """A teacher that is looked at before it is made."""

    name: str
    settings: Mapping[str, Any]
    ids: int
    """How many token ids the student's tokenizer makes."""
    temperature: float
    """At which student and teacher are compared."""
    tokenizer: PreTrainedTokenizerBase | None = None
    """The student's."""


@dataclass(frozen=True, slots=True)
class Few:
    """The ids of each token that a teacher gives the probability of, where that is not all of the vocabulary."""

    of: Whose
    """Whose likeliest they are."""
    k: int
    """How many of each of those; 0: only the token taken is told."""
    whose: str
    """The setting that says ``of``."""
    many: str
    """The setting that says ``k``; -1 there is all of the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Marks the function of a kind, as ``@Traits(model=True)``. The defaults are those of a function that is not marked."""

    model: bool = False
    """It is a model in this process. Its settings ``model`` and ``new``, of which it may lack one, and ``dtype`` and ``attention``,
    where it has them, mean what they mean for any model; it asks ``context.load`` for that model."""
    initial: bool = False
    """Where it is given neither ``model`` nor ``new``, or has neither setting, it is the student, as it began or as it was since."""
    hint: bool = False
    """It is shown its setting ``hint``, where it reads and where it acts, in the environments of its ``where``."""
    corrects: bool = True
    """It may give corrected actions. Whether it does is known once the teacher is made, by its ``corrects``."""
    distributes: bool = True
    """It may give distributions over tokens: be a target, or be asked by a weight."""
    few: Few | None = None
    """Of each distribution it gives but these ids; ``None``: all of it, or known once it has spoken."""
    rewards: bool = True
    """It may give turns rewards."""
    statistics: tuple[str, ...] | None = None
    """The statistics that it tells of each row beside those of its log-probabilities; ``None``: known once it has spoken."""
    own_tokenizer: bool = False
    """Its model reads and writes tokens of its own: those of its setting ``tokenizer``, where it has one and that is given, else those that
    lie with ``model``, by a chat template with ``template_kwargs``. So it cannot act, and tells distributions over other tokens."""
    recorded: bool = False
    """What it says lies in records: it says nothing of an episode that is not among them."""
    needs_expert: bool = False
    """It asks the environment's expert."""
    members: bool = False
    """It reads what the models that its setting ``members`` names said, other teachers of the run: see ``base.Combining``."""
    compares: bool = False
    """It learns from the student's episodes beside those of the actor that its setting ``chosen`` names, of the same tasks: a source must play
    both."""
    metrics: tuple[str, ...] | None = None
    """What its ``metrics`` may tell; ``None``: known once it has spoken."""
    examine: Callable[[Examined], int | None] | None = None
    """Looks, once, before anything is fitted, at what is too costly to be looked at wherever a configuration is read: files, servers.
    Raises ConfigError over ``setting=...``, and returns how many tokens the teacher reads, where that is known and it has to read all of
    an episode."""
    idle: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None
    """From the settings, defaults included, to the names of those that the others leave unread, each with the reason: see
    :func:`require_read`."""
    adjustable: tuple[str, ...] = ()
    """Settings that a resumed run may give other values: they decide how much is asked and how, never what is learned."""

    def __call__(self, function: F) -> F:
        """Marks ``function``.

        Raises:
            TypeError: It lacks a setting that it is marked with, or the marks do not go together.
        """
        name, settings = getattr(function, "__name__", repr(function)), inspect.signature(function).parameters
        if self.initial and not self.model:
            raise TypeError(f"{name}: initial is the mark of a model; mark it with model=True too")
        if self.own_tokenizer and (not self.model or self.initial or "model" not in settings or "new" in settings):
            raise TypeError(
                f"{name} is marked with own_tokenizer=True; mark it with model=True too, and give it the setting model, not new"
            )
        if self.model and not self.initial and not settings.keys() & {"model", "new"}:
            raise TypeError(f"{name} is marked with model=True; give it a setting model, new or both")
        if self.hint and "hint" not in settings:
            raise TypeError(f"{name} is marked with hint=True; give it the setting hint")
        if self.members and (self.model or "members" not in settings):
            raise TypeError(f"{name} is marked with members=True; give it the setting members, and no mark of a model")
        if self.compares and "chosen" not in settings:
            raise TypeError(f"{name} is marked with compares=True; give it the setting chosen")
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


def is_language_model(choice: Choice) -> bool:
    """Whether a chosen teacher is a model in this process that says what it thinks of the student's tokens, and so may act and be one of
    an ensemble."""
    traits = traits_of(choice)
    return traits.model and traits.distributes and not traits.own_tokenizer


def members_of(choice: Choice) -> tuple[str, ...]:
    """The names of the teachers that a chosen teacher reads; none for most."""
    return tuple(choice.settings["members"]) if traits_of(choice).members else ()


def thinks_by(choice: Choice) -> dict[str, Any]:
    """The kind and settings that decide what a chosen model thinks of a token: not where it speaks, nor how it is read."""
    return {"kind": choice.kind} | {
        name: value for name, value in choice.settings.items() if name not in ("where", "max_tokens")
    }


def require_read(name: str, choice: Choice) -> None:
    """Raises ConfigError where a setting of the teacher ``name`` is read by nobody, as its other settings are, and is not its default."""
    idle = traits_of(choice).idle
    parameters = inspect.signature(choice.function).parameters
    for setting, why in (idle(choice.settings) if idle else {}).items():
        value = choice.settings[setting]
        if value != parameters[setting].default:
            raise ConfigError(f"teachers.{name}.{setting}={plain(value)}: {why}; leave it out")


def unloaded(*idle: str) -> Callable[[Mapping[str, Any]], Mapping[str, str]]:
    """The settings ``idle`` of a model, which are left unread where neither ``model`` nor ``new`` is given: for :attr:`Traits.idle`."""

    def unread(settings: Mapping[str, Any]) -> Mapping[str, str]:
        loads = settings["model"] is not None or settings["new"] is not None
        return {} if loads else dict.fromkeys(idle, "without model and new it is the student as it began")

    return unread


def require_members(choices: Mapping[str, Choice]) -> None:
    """Looks at who reads whom among the teachers ``choices``.

    Raises:
        ConfigError: One reads fewer than two, or not exactly one where it draws dropout of it, the same twice, one that does not
            exist, or one that is no model in this process, such as itself or another that reads teachers.
    """
    for name, choice in choices.items():
        if not traits_of(choice).members:
            continue
        key, members = f"teachers.{name}.members", members_of(choice)
        models = [other for other, one in choices.items() if is_language_model(one)]
        known = f"those that are models in this process: {', '.join(models) or 'none'}"
        draws = choice.settings.get("draws")
        if draws is not None and len(members) != 1:
            raise ConfigError(
                f"{key}={list(members)}: draws={draws} are drawn of one teacher; give one, or leave out draws; {known}"
            )
        if draws is None and (len(members) < 2 or len(set(members)) < len(members)):
            raise ConfigError(f"{key}={list(members)}: give at least two different teachers, or one and draws; {known}")
        for member in members:
            if member not in choices:
                raise ConfigError(f"{key}: no teacher is called {member!r}{nearest(member, choices)}; {known}")
            if member not in models:
                what = "the ensemble itself" if member == name else f"of kind {choices[member].kind}"
                own = member in choices and traits_of(choices[member]).own_tokenizer
                why = "has a tokenizer of its own" if own else "is no model in this process"
                raise ConfigError(f"{key}: {member!r} is {what}, which {why}; give {known}")
        for one, other in combinations(members, 2):
            if thinks_by(choices[one]) == thinks_by(choices[other]):
                raise ConfigError(
                    f"{key}: {one!r} and {other!r} are one model twice, which agrees with itself; give them a different model, hint or "
                    "new.seed"
                )
