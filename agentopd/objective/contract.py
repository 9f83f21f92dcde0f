"""What a part is called with and what it must return.

A part may be a user's own function, named by import path, so every call goes through :func:`call` and every result through a
check. Each mistake is one ``ConfigError`` that names the part's key, what was returned, and what was expected.
"""

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor

from agentopd.errors import ConfigError
from agentopd.objective.columns import Reals
from agentopd.settings.choice import Choice
from agentopd.settings.signature import F, Function

Require: TypeAlias = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Contract:
    """How one part of a method is called."""

    arguments: tuple[str, ...]
    """Positional arguments; the settings follow by keyword."""
    returns: str

    def __str__(self) -> str:
        return f"f({', '.join(self.arguments)}, **settings)"


CONTRACTS: Mapping[str, Contract] = {
    "aggregate": Contract(("rows",), "one finite number of at least 0 a row, [A]"),
    "weight": Contract(("rows", "teacher"), "one finite number of at least 0 a row, [A]"),
    "estimator": Contract(("scored",), "one finite number a row of scored.rows, [A]"),
    "coupling": Contract(("scored", "advantage_A"), "one finite number a row of scored.rows, [A]"),
    "number": Contract(("rows", "teacher"), "one finite number a row, [A]"),
    "target": Contract(
        ("logp",),
        "log-probabilities up to a number a row, [N, V], or these and what multiplies each row's loss, [N], at least 0",
    ),
    "support": Contract(
        ("logp_N_V", "teacher"), "the log-probabilities of student and teacher on the same K tokens, two tensors [N, K]"
    ),
    "divergence": Contract(("logp", "logq"), "one number a row, a floating-point tensor [N]"),
}


UNTAUGHT = "; teacher is None, since the target of this term is no teacher's"


class PartError(ConfigError):
    """A part did something else than its contract says."""

    def __init__(self, message: str, choice: Choice) -> None:
        super().__init__(message)
        self.own = is_own(choice)
        """Whether the part is a user's own function."""


def is_own(choice: Choice) -> bool:
    """Whether a part is a user's own function."""
    return ":" in choice.kind


def checked_by(require: Require) -> Callable[[F], F]:
    """Marks a part whose settings must go together: ``require(settings)`` raises ValueError where they do not."""

    def mark(function: F) -> F:
        function.require = require  # type: ignore[attr-defined]
        return function

    return mark


def idle(function: Function, settings: Mapping[str, Any], *names: str) -> str:
    """The first of the settings ``names`` that is not at its default, as ``name=value``; empty where all are."""
    defaults = {name: inspect.signature(function).parameters[name].default for name in names}
    return next((f"{name}={_setting(settings[name])}" for name in names if settings[name] != defaults[name]), "")


def _setting(value: Any) -> Any:
    return value.plain() if isinstance(value, Choice) else value


def callable_as(part: str) -> AfterValidator:
    """Refuses, when a configuration is read, a user's function that cannot be called as ``part`` is, and settings that do not go together."""
    contract = CONTRACTS[part]

    def check(choice: Choice) -> Choice:
        if is_own(choice):
            signature = inspect.signature(choice.function)
            try:
                signature.bind(*contract.arguments, **choice.settings)
            except TypeError as error:
                raise ValueError(
                    f"{part} {choice.kind!r} takes {signature} and is called as {contract}: {error}; settings stand after a *"
                ) from error
        if (require := getattr(choice.function, "require", None)) is not None:
            require(choice.settings)
        return choice

    return AfterValidator(check)


def call(key: str, choice: Choice, settings: Mapping[str, Any], *arguments: Any) -> Any:
    """What a part returns.

    Args:
        key: Where the part stands in a configuration, such as ``objective.weight``.
        choice: The part.
        settings: Its settings at this step.
        *arguments: As its contract says.

    Raises:
        ConfigError: It raised, or cannot work on what it was given.
    """
    try:
        return choice.function(*arguments, **settings)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if is_own(choice):
            untaught = UNTAUGHT if any(argument is None for argument in arguments) else ""
            raise _wrong(key, choice, f" raised {type(error).__name__}: {error}{_place(error)}{untaught}") from error
        if isinstance(error, ValueError):
            raise _wrong(key, choice, f": {error}") from error
        raise


def checked_column(key: str, choice: Choice, given: Any, size: int, part: str) -> Reals:
    """One number a row, [size], from what a part returned on the global batch.

    Raises:
        ConfigError: It is something else, or a number is not finite, or negative where the contract forbids that.
    """
    wanted = f"return {CONTRACTS[part].returns}"
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _wrong(key, choice, f" returned {_shape(given)}, no array: {error}; {wanted}") from error
    if array.shape != (size,) or array.dtype.kind not in "biuf":
        found = _shape(given if given is None else array)
        raise _wrong(key, choice, f" returned {found} for {size} rows; {wanted}")
    number_A = array.astype(np.float64)
    bad_A = ~np.isfinite(number_A)
    if part in ("aggregate", "weight"):
        bad_A |= number_A < 0
    if bad_A.any():
        found = (
            f"{number_A[bad_A][0]} for row {np.flatnonzero(bad_A)[0]}, one of {bad_A.sum()} bad numbers in {size} rows"
        )
        raise _wrong(key, choice, f" returned {found}; {wanted}")
    return number_A


def pair(key: str, choice: Choice, given: Any, logp_N_V: Tensor) -> tuple[Tensor, Tensor]:
    """What a support returned: the student's and the teacher's log-probabilities on common tokens, [N, K] each.

    Raises:
        ConfigError: It is something else, or the student's no longer depends on its logits.
    """
    tensors = given if isinstance(given, tuple | list) else (given,)
    shapes = {tuple(t.shape) if isinstance(t, Tensor) and t.is_floating_point() else None for t in tensors}
    shape = shapes.pop()
    if len(tensors) != 2 or shapes or shape is None or len(shape) != 2 or shape[0] != len(logp_N_V):
        found = " and ".join(map(_shape, tensors))
        raise _wrong(key, choice, f" returned {found} for {len(logp_N_V)} rows; return {CONTRACTS['support'].returns}")
    require_gradient(key, choice, tensors[0], logp_N_V)
    return tensors[0], tensors[1]


def targeted(key: str, choice: Choice, given: Any, logp_N_V: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a target returned: log-probabilities [N, V], not yet normalised, and what multiplies each row's loss, [N].

    Raises:
        ConfigError: It is something else, or a user's own and not a number.
    """
    log_N_V, factor_N = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    wanted = [(log_N_V, tuple(logp_N_V.shape))] + ([] if factor_N is None else [(factor_N, (len(logp_N_V),))])
    for tensor, shape in wanted:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tuple(tensor.shape) != shape:
            raise _wrong(key, choice, f" returned {_shape(tensor)} for {shape}; return {CONTRACTS['target'].returns}")
        if is_own(choice) and bool(tensor.isnan().any()):
            raise _wrong(key, choice, f" returned nan; return {CONTRACTS['target'].returns}")
    return log_N_V, factor_N


def row_values(key: str, choice: Choice, value: Any, logp: Tensor) -> Tensor:
    """What a divergence, or an estimator by token, returned on log-probabilities [..., K]: one number a row, [...].

    Raises:
        ConfigError: It is something else; it does not depend on the student; or it is a user's own and not a number where the
            student's log-probabilities are.
    """
    wanted = f"return {CONTRACTS['divergence'].returns}"
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != logp.shape[:-1]:
        raise _wrong(key, choice, f" returned {_shape(value)} for rows of shape {tuple(logp.shape[:-1])}; {wanted}")
    require_gradient(key, choice, value, logp)
    if is_own(choice):
        bad = ~value.detach().isfinite() & ~logp.detach().isnan().any(-1)
        if bad.any():
            raise _wrong(
                key,
                choice,
                f" returned {float(value.detach()[bad][0])}, one of {int(bad.sum())} bad numbers in "
                f"{bad.numel()} rows; return finite numbers (log-probabilities may be -inf: clamp them)",
            )
    return value


def require_gradient(key: str, choice: Choice, value: Tensor, logp: Tensor) -> None:
    """Refuses a value through which no gradient reaches the student although one is wanted: it would train nothing.

    Raises:
        ConfigError: That is so.
    """
    if torch.is_grad_enabled() and logp.requires_grad and not value.requires_grad:
        raise _wrong(
            key,
            choice,
            " returned a tensor without a gradient in the student's log-probabilities, so it would train "
            "nothing; use no detach, argmax or comparison on the way, or torch.no_grad() to evaluate only",
        )


def _wrong(key: str, choice: Choice, what: str) -> PartError:
    return PartError(f"{key}.kind={choice.kind}{what}".lstrip("."), choice)


def _shape(given: Any) -> str:
    if hasattr(given, "shape") and hasattr(given, "dtype"):
        return f"shape {tuple(given.shape)} of {given.dtype}"
    return repr(given) if given is None or isinstance(given, bool | int | float) else f"a {type(given).__name__}"


def _place(error: Exception) -> str:
    """Where in a user's function an error arose; nowhere where it could not even be called."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    return f" (line {frames[0].lineno} of {frames[0].filename})" if frames else ""
