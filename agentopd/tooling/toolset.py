"""Tools that models call."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature
from itertools import groupby
from typing import Any, TypeVar, overload

from pydantic import BaseModel, ValidationError

from agentopd.errors import ConfigError, EnvError, ToolError, describe
from agentopd.tooling.action import brief, from_numpy
from agentopd.tooling.answer import answer, plain_data
from agentopd.tooling.cutting import MAX_CHARACTERS, cut
from agentopd.tooling.loop import GRACE, LateError, is_cancelled, limited, submit, within
from agentopd.tooling.recording import Running, begun
from agentopd.tooling.schema import Check, checker
from agentopd.tooling.signature import RECEIVERS, arguments_of, json_schema, summary
from agentopd.types import ToolCall

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

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
    model: type[BaseModel] | None = field(repr=False)
    """What checks the arguments of a marked function."""
    time_limit: float | None = None
    """Seconds of wall time."""
    max_characters: int | None = MAX_CHARACTERS
    """Of an answer, or of what is told where it refuses."""
    check: Check | None = field(default=None, repr=False)
    """What checks the arguments where there is no ``model``."""

    @classmethod
    def described(
        cls,
        name: str,
        description: str,
        parameters: Mapping[str, Any],
        function: Callable[..., Any],
        time_limit: float | None = None,
        max_characters: int | None = MAX_CHARACTERS,
    ) -> "Tool":
        """A tool that another program describes: its arguments are checked by ``parameters``, a JSON schema, and passed by name.

        Raises:
            ConfigError: ``parameters`` is no JSON schema of an object.
            DependencyNotInstalled: ``jsonschema`` is missing.
        """
        schema = plain_data(parameters)
        return cls(name, description, schema, function, None, time_limit, max_characters, checker(name, schema))

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Tool":
        """The tool that a function or bound method was marked as.

        Raises:
            ConfigError: it is not marked, or a method's first parameter stands in what is no method of its class.
        """
        marked = getattr(function, _MARK, None)
        if not isinstance(marked, Tool) or marked.model is None:
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

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function, which runs on the loop of the process (``agentopd.tooling.loop``)."""
        return iscoroutinefunction(self.function)

    def __call__(self, /, **arguments: Any) -> str:
        """Runs the tool, and waits for it where it is async.

        Returns:
            The result as text, by the rules of :func:`agentopd.tooling.answer.answer`: JSON, unless it is text already. It is cut
            after ``max_characters``.

        Raises:
            ToolError: the arguments are wrong, time ran out, or the function raised. A ``ToolError`` that the function raised
                itself keeps its message, up to ``max_characters``, and its kind; anything else is a ``tool_crash``, and the first of
                a tool is logged.
            EnvError: not the call but the environment is broken: the function raised one, or what it returned has no text form.
            RuntimeError: an async tool is called where it would have to wait for itself: inside of another.
        """
        if self.is_async:
            return self.wait_for(submit(self.run(arguments)))
        work = partial(self._answered, partial(self.function, **self._checked(arguments)))
        try:
            return work() if self.time_limit is None else within(self.time_limit, work)
        except LateError:
            raise self._late() from None

    async def run(self, arguments: Mapping[str, Any]) -> str:
        """What a call of an async tool gives and raises, for those who are on the loop already."""
        work = self._awaited(arguments)
        try:
            return await (work if self.time_limit is None else limited(work, self.time_limit))
        except LateError:
            raise self._late() from None

    def wait_for(self, future: "Future[T]") -> T:
        """What a call that was put on the loop gives; it is cancelled where its time runs out while something else blocks the loop."""
        try:
            if wait([future], timeout=None if self.time_limit is None else self.time_limit + 2 * GRACE).done:
                return future.result()
            raise self._late()
        except CancelledError:
            raise ToolError(f"{self.name}: the call was cancelled", kind=CRASH) from None
        finally:
            future.cancel()

    def _answered(self, work: Callable[[], Any]) -> str:
        with self._blamed():
            result = work()
        return self._text(result)

    async def _awaited(self, arguments: Mapping[str, Any]) -> str:
        checked = self._checked(arguments)
        with self._blamed():
            result = await self.function(**checked)
        return self._text(result)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """What the function raises is the call's fault, or else the environment's."""
        try:
            yield
        except EnvError:
            raise
        except ToolError as error:
            said = self._cut(str(error))
            raise error if said == str(error) else ToolError(said, error.kind) from error
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            self._log_once(error)
            raise ToolError(f"{self.name}: {brief(describe(error), 200)}", kind=CRASH) from error

    def _text(self, result: Any) -> str:
        try:
            return self._cut(answer(result))
        except (TypeError, ValueError, RecursionError) as error:
            raise EnvError(
                f"tool {self.name} returned what a model cannot read ({brief(str(error), 100)}); return text, or data that JSON can hold"
            ) from error

    def _cut(self, text: str) -> str:
        return text if self.max_characters is None else cut(text, self.max_characters)

    def _late(self) -> ToolError:
        return ToolError(f"{self.name}: no answer within {self.time_limit:g} s", kind="tool_timeout")

    def _log_once(self, crash: BaseException) -> None:
        place = f"{self.function.__module__}.{self.function.__qualname__}"
        if place not in _logged:
            _logged.add(place)
            said = "tool %s crashed; the model reads type and message, and later crashes of this tool are not logged"
            _log.warning(said, place, exc_info=crash)

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if self.model is None:
            return self.check(arguments) if self.check else dict(arguments)
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
def tool(*, time_limit: float | None = None, max_characters: int | None = MAX_CHARACTERS) -> Callable[[F], F]: ...
def tool(
    function: Any = None, /, *, time_limit: float | None = None, max_characters: int | None = MAX_CHARACTERS
) -> Any:
    """Marks a function or method, ``def`` or ``async def``, as a tool: ``@tool`` or ``@tool(time_limit=5.0)``. It can still be called as before.

    The schema is made from the type hints; the description is the first paragraph of the docstring, and those of the
    parameters are in its ``Args:`` section (Google style).

    Args:
        function: The function to mark.
        time_limit: Seconds after which a call counts as hung (``tool_timeout``). An async function is then cancelled. A plain one
            runs in a thread of its own, which cannot be killed: one that hangs lives until the process ends, and whatever it still
            writes it writes.
        max_characters: Where an answer is longer, or the message of a ``ToolError``, the rest is cut off, which is said. ``None``: never,
            for a tool that keeps its answers short itself.

    Raises:
        ConfigError: the docstring or a type hint is missing, what is marked is no plain function, or a parameter has a type
            that JSON cannot give.
    """
    if function is None:
        return partial(_marked, time_limit=time_limit, max_characters=max_characters)
    return _marked(function, time_limit, max_characters)


def _marked(function: F, time_limit: float | None, max_characters: int | None) -> F:
    if not hasattr(function, "__name__") or isinstance(function, staticmethod | classmethod | property):
        raise ConfigError(f"@tool marks functions, and {brief(repr(function), 80)} is none; put it right above a `def`")
    name, description = function.__name__, summary(function.__doc__ or "")
    if not description:
        raise ConfigError(f"tool {name}: no docstring; its first paragraph tells the model what the tool does")
    if isgeneratorfunction(function) or isasyncgenfunction(function):
        raise ConfigError(f"tool {name}: it yields; return one answer, a list for instance")
    if time_limit is not None and time_limit <= 0:
        raise ConfigError(f"tool {name}: time_limit={time_limit} must be positive seconds")
    if max_characters is not None and max_characters < 1:
        raise ConfigError(f"tool {name}: max_characters={max_characters} must be at least 1, or None for no limit")
    model = arguments_of(function)
    made = Tool(name, description, json_schema(model), function, model, time_limit, max_characters)
    setattr(function, _MARK, made)
    return function


class ToolSet(Sequence[Tool]):
    """Tools by name, in order."""

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]] = ()):
        self._tools = tuple(t if isinstance(t, Tool) else Tool.of(t) for t in tools)
        twice = [name for name, count in Counter(self.names).items() if count > 1]
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
                message is one that a model can learn from.
        """
        [(_, told)] = self.call_all([call])
        if isinstance(told, ToolError):
            raise told
        return told

    def call_all(
        self, calls: Iterable[ToolCall], over: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[ToolCall, str | ToolError]]:
        """Runs calls in order, and gives each with its answer, or with what was wrong.

        Calls of async tools that follow each other run at the same time: all are begun, in order, and all are waited for, before what
        comes behind them is begun. Every call is recorded (``agentopd.tooling.recording``).

        Args:
            calls: What to run.
            over: Asked before anything is begun; nothing is, from where it says yes. It is not asked between calls that run at the same
                time: what ran beside the one that ended an episode is answered, too.
        """
        for is_async, group in groupby(calls, self._is_async):
            for batch in [list(group)] if is_async else ([call] for call in group):
                if over():
                    return
                yield from zip(batch, self._together(batch) if is_async else map(self._alone, batch), strict=True)

    def _alone(self, call: ToolCall) -> str | ToolError:
        try:
            with begun(call.name).timed():
                return self.named(call.name)(**call.arguments)
        except ToolError as error:
            return error

    def _together(self, calls: Sequence[ToolCall]) -> list[str | ToolError]:
        tools = [self.named(call.name) for call in calls]
        running = [begun(call.name) for call in calls]
        futures = [submit(_timed(*one)) for one in zip(tools, running, calls, strict=True)]
        try:
            return [_taken(*one) for one in zip(tools, running, futures, strict=True)]
        finally:  # where one broke the environment, the others need not go on
            for future in futures:
                future.cancel()

    def _is_async(self, call: ToolCall) -> bool:
        return any(tool.name == call.name and tool.is_async for tool in self._tools)

    def named(self, name: str) -> Tool:
        """The tool of a name.

        Raises:
            ToolError: There is none (``unknown_tool``).
        """
        for tool in self._tools:
            if tool.name == name:
                return tool
        names = ", ".join(self.names) or "none"
        raise ToolError(f"unknown tool {brief(repr(name), 40)}; tools: {names}", kind="unknown_tool")


async def _timed(tool: Tool, running: Running, call: ToolCall) -> str | ToolError:
    try:
        with running.timed():
            return await tool.run(call.arguments)
    except ToolError as error:
        return error


def _taken(tool: Tool, running: Running, future: "Future[str | ToolError]") -> str | ToolError:
    try:
        return tool.wait_for(future)
    except ToolError as error:  # it did not get so far as to say so itself
        running.end(error.kind)
        return error


def tool_names(kind: type) -> list[str]:
    """The names of the ``@tool`` methods of a class: base classes first, each class in the order of its source."""
    names = dict.fromkeys(name for base in reversed(kind.__mro__) for name in vars(base))
    return [name for name in names if isinstance(_mark_of(kind, name), Tool)]


def _mark_of(kind: type, name: str) -> Any:
    found = next(vars(base)[name] for base in kind.__mro__ if name in vars(base))
    return getattr(getattr(found, "__func__", found), _MARK, None)  # the function in a staticmethod
