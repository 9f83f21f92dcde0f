"""The base of all settings: frozen, strict data."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, field_validator
from pydantic_core import PydanticKnownError

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy takes for a seed."""


class Settings(BaseModel):
    """Base of every block of settings: frozen, numbers finite, nothing coerced, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _uncoerced(cls, given: Any, check: ValidatorFunctionWrapHandler) -> Any:
        got = check(given)
        _require_kept(given, got)
        return got


def _require_kept(given: Any, got: Any) -> None:
    """Refuses a number or a truth value that was made of something else; an integer may stand for a float."""
    if type(got) in _NOT_A:
        same = isinstance(given, bool) == isinstance(got, bool) and isinstance(given, type(got))
        if not same and not (type(got) is float and type(given) is int):
            raise PydanticKnownError(_NOT_A[type(got)])
    elif isinstance(got, list | tuple) and isinstance(given, list | tuple):
        for pair in zip(given, got, strict=False):
            _require_kept(*pair)
    elif isinstance(got, Mapping) and isinstance(given, Mapping):
        for name in got.keys() & given.keys():
            _require_kept(given[name], got[name])


_NOT_A: Mapping[type, Any] = {bool: "bool_type", int: "int_type", float: "float_type"}
