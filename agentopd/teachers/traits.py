"""What a kind of teacher says of itself, before a teacher of it is made: the checks of a run ask this, never the kind's name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from agentopd.settings.choice import Choice

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Marks the function of a kind, as ``@Traits(model=True)``. The defaults are those of a function that is not marked."""

    model: bool = False
    """It is a model in this process. Its settings ``model`` and ``new``, of which it may lack one, and ``dtype`` and ``attention``,
    where it has them, mean what they mean for any model; it asks ``context.load`` for that model."""
    initial: bool = False
    """Where it is given neither ``model`` nor ``new``, it is the student as it began: it asks ``context.initial``."""
    hint: bool = False
    """The model is shown its setting ``hint``, where it reads and where it acts, in the environments of its ``where``."""
    corrects: bool = True
    """It may give corrected actions. Whether it does is known once the teacher is made, by its ``corrects``."""
    needs_expert: bool = False
    """It asks the environment's expert."""

    def __call__(self, function: F) -> F:
        """Marks ``function``.

        Raises:
            TypeError: It lacks a setting that it is marked with, or the marks do not go together.
        """
        name, settings = getattr(function, "__name__", repr(function)), inspect.signature(function).parameters
        if (self.initial or self.hint) and not self.model:
            raise TypeError(f"{name}: initial and hint are marks of a model; mark it with model=True too")
        if self.model and not settings.keys() & {"model", "new"}:
            raise TypeError(f"{name} is marked with model=True; give it a setting model, new or both")
        if self.hint and "hint" not in settings:
            raise TypeError(f"{name} is marked with hint=True; give it the setting hint")
        function.traits = self  # type: ignore[attr-defined]
        return function


def traits_of(choice: Choice) -> Traits:
    """What the kind of a chosen teacher says of itself."""
    found = getattr(choice.function, "traits", None)
    return found if isinstance(found, Traits) else Traits()
