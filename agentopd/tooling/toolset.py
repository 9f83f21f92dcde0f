"""Tools that models call."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature
from threading import Thread
from typing import Any, TypeVar, overload

from pydantic import BaseModel, ValidationError

from agentopd.errors import ConfigError, EnvError, ToolError, describe
from agentopd.tooling.action import brief, from_numpy
from agentopd.tooling.answer import answer, plain_data
from agentopd.tooling.signature import RECEIVERS, arguments_of, json_schema, summary
from agentopd.types import ToolCall

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__agentopd_tool__"

CRASH = "tool_crash"
"""The kind of an exception that no tool raises on purpose: a defect of the tool, not of the call."""

_log = logging.getLogger(__name__)
_logged: set[str] = set()
"""Tools whose first crash was logged."""


@dataclass(frozen=True)
class Tool:
    """A function that a model can call. Calling the tool checks the arguments first and gives text."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments."""
    function: Callable[..., Any] = field(repr=False)
    model: type[BaseModel] = field(repr=False)
    time_limit: float | None = None
    """Seconds of wall time."""

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Tool":
        """The tool that a function or bound method was marked as.

        Raises:
            ConfigError: it is not marked, or a method's first parameter stands in what is no method of its class.
        """
        marked = getattr(function, _MARK, None)
        if not isinstance(marked, Tool):
            raise ConfigError(f"{getattr(function, '__qualname__', function)!r} is not a tool; mark it with @tool")
        given = {info.alias for info in marked.model.model_fields.values()}
        for name in RECEIVERS:
            if (name in signature(function).parameters) != (name in given):
                raise ConfigError(
                    f"tool {marked.name}: {name!r} stands for the object only in a method; define the function in its class, or "
                    "rename the parameter"
                )
        return replace(marked, function=function)

    @property
    def schema(self) -> dict[str, Any]:
        """The tool in the form that chat templates and chat APIs read."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": plain_data(function)}

    def __call__(self, /, **arguments: Any) -> str:
        """Runs the tool.

        Returns:
            The result as text, by the rules of :func:`agentopd.tooling.answer.answer`: JSON, unless it is text already.

        Raises:
            ToolError: the arguments are wrong, time ran out, or the function raised. A ``ToolError`` that the function raised
                itself keeps its message and kind; anything else is a ``tool_crash``, and the first of a tool is logged.
            EnvError: not the call but the environment is broken: the function raised one, or what it returned has no text form.
        """
        work = partial(self.function, **self._checked(arguments))
        try:
            result = work() if self.time_limit is None else _within(self.name, self.time_limit, work)
        except (ToolError, EnvError):
            raise
        except (Exception, SystemExit) as error:
            self._log_once(error)
            raise ToolError(f"{self.name}: {brief(describe(error), 200)}", kind=CRASH) from error
        try:
            return answer(result)
        except (TypeError, ValueError, RecursionError) as error:
            raise EnvError(
                f"tool {self.name} returned what a model cannot read ({brief(str(error), 100)}); return text, or data that JSON can hold"
            ) from error

    def _log_once(self, crash: BaseException) -> None:
        place = f"{self.function.__module__}.{self.function.__qualname__}"
        if place not in _logged:
            _logged.add(place)
            said = "tool %s crashed; the model reads type and message, and later crashes of this tool are not logged"
            _log.warning(said, place, exc_info=crash)

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            checked = self.model.model_validate_json(json.dumps(arguments, default=from_numpy), strict=True)
        except ValidationError as error:
            problems = "; ".join(self._problem(e) for e in error.errors(include_url=False)[:3])
            raise ToolError(f"{self.name}: {problems}", kind="bad_arguments") from error
        names = {name: info.alias or name for name, info in self.model.model_fields.items()}
        return {alias: getattr(checked, name) for name, alias in names.items()}

    def _problem(self, error: Mapping[str, Any]) -> str:
        where = brief(".".join(map(str, error["loc"])), 40)
        if error["type"] == "missing":
            return f"{where}: missing"
        if error["type"] == "extra_forbidden":
            names = ", ".join(self.parameters.get("properties", ())) or "none"
            return f"{where}: unknown argument (arguments: {names})"
        return f"{where}: {error['msg']} (got {brief(repr(error['input']), 40)})"


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(*, time_limit: float | None = None) -> Callable[[F], F]: ...
def tool(function: Any = None, /, *, time_limit: float | None = None) -> Any:
    """Marks a function or method as a tool: ``@tool`` or ``@tool(time_limit=5.0)``. It can still be called as before.

    The schema is made from the type hints; the description is the first paragraph of the docstring, and those of the
    parameters are in its ``Args:`` section (Google style).

    Args:
        function: The function to mark.
        time_limit: Seconds after which a call counts as hung (``tool_timeout``). The function then runs in a thread of its own.
            A thread cannot be killed: one that hangs lives until the process ends, and whatever it still writes it writes.

    Raises:
        ConfigError: the docstring or a type hint is missing, what is marked is no plain function, or a parameter has a type
            that JSON cannot give.
    """
    if function is None:
        return partial(_marked, time_limit=time_limit)
    return _marked(function, time_limit)


def _marked(function: F, time_limit: float | None) -> F:
    if not hasattr(function, "__name__") or isinstance(function, staticmethod | classmethod | property):
        raise ConfigError(f"@tool marks functions, and {brief(repr(function), 80)} is none; put it right above a `def`")
    description = summary(function.__doc__ or "")
    if not description:
        raise ConfigError(
            f"tool {function.__name__}: no docstring; its first paragraph tells the model what the tool does"
        )
    if iscoroutinefunction(function) or isasyncgenfunction(function):
        raise ConfigError(
            f"tool {function.__name__}: it is async; write a plain function, environments step side by side"
        )
    if isgeneratorfunction(function):
        raise ConfigError(f"tool {function.__name__}: it yields; return one answer, a list for instance")
    if time_limit is not None and time_limit <= 0:
        raise ConfigError(f"tool {function.__name__}: time_limit={time_limit} must be positive seconds")
    model = arguments_of(function)
    made = Tool(function.__name__, description, json_schema(model), function, model, time_limit)
    setattr(function, _MARK, made)
    return function


class ToolSet(Sequence[Tool]):
    """Tools by name, in order."""

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]] = ()):
        self._tools = tuple(t if isinstance(t, Tool) else Tool.of(t) for t in tools)
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise ConfigError(f"two tools are called {twice[0]!r}; rename one")

    @classmethod
    def of(cls, owner: object) -> "ToolSet":
        """The ``@tool`` methods of an object, base classes first, each class in the order of its source."""
        return cls(getattr(owner, name) for name in tool_names(type(owner)))

    @overload
    def __getitem__(self, index: int) -> Tool: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Tool, ...]: ...
    def __getitem__(self, index: int | slice) -> Tool | tuple[Tool, ...]:
        return self._tools[index]

    def __len__(self) -> int:
        return len(self._tools)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools)

    def __repr__(self) -> str:
        return f"ToolSet({', '.join(self.names)})"

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(tool.name for tool in self._tools)

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """The tools as chat templates take them."""
        return [tool.schema for tool in self._tools]

    def call(self, call: ToolCall) -> str:
        """Runs one call.

        Raises:
            ToolError: ``kind`` is ``unknown_tool``, ``bad_arguments``, ``tool_error``, ``tool_crash`` or ``tool_timeout``; the
                message is one line that a model can learn from.
        """
        for tool in self._tools:
            if tool.name == call.name:
                return tool(**call.arguments)
        names = ", ".join(self.names) or "none"
        raise ToolError(f"unknown tool {brief(repr(call.name), 40)}; tools: {names}", kind="unknown_tool")


def tool_names(kind: type) -> list[str]:
    """The names of the ``@tool`` methods of a class: base classes first, each class in the order of its source."""
    names = dict.fromkeys(name for base in reversed(kind.__mro__) for name in vars(base))
    return [name for name in names if isinstance(_mark_of(kind, name), Tool)]


def _mark_of(kind: type, name: str) -> Any:
    found = next(vars(base)[name] for base in kind.__mro__ if name in vars(base))
    return getattr(getattr(found, "__func__", found), _MARK, None)  # the function in a staticmethod


def _within(name: str, seconds: float, work: Callable[[], Any]) -> Any:
    future: Future[Any] = Future()
    Thread(target=settle, args=(future, work), daemon=True).start()
    if not wait([future], timeout=seconds).done:
        raise ToolError(f"{name}: no answer within {seconds:g} s", kind="tool_timeout")
    return future.result()


def settle(future: "Future[Any]", work: Callable[[], Any]) -> None:
    """Runs ``work`` and puts what came of it, an exception included, into ``future``; for a thread of its own."""
    try:
        future.set_result(work())
    except BaseException as error:  # handed to the caller, who decides
        future.set_exception(error)
