"""Python for agents, in Monty's sandbox: no files, no network, no modules of the host, and limits of time, memory and output."""

import ast
import atexit
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from gymnasium.error import DependencyNotInstalled

from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import brief, cut, tool
from agentopd.tooling.syntax import statements_of

try:
    from pydantic_monty import (
        CollectString,
        Monty,
        MontyCrashedError,
        MontyError,
        MontyRuntimeError,
        OSPolicy,
        ResourceLimits,
    )
except ImportError as error:
    raise DependencyNotInstalled("the tool python needs pydantic-monty: pip install 'agentopd[python]'") from error

MAX_CODE = 10_000
"""Characters of a call."""
PRINTED = 16
"""What a call may print, in multiples of what is told of it; more of it is an error."""
GRACE = 1.0
"""Seconds that a worker has to notice its limit before it is killed."""
FIXED: OSPolicy = {
    "datetime": datetime(2025, 1, 1, tzinfo=UTC),
    "sleep": "zero",
    "random_start": {"seed": 0},
}
"""What code can find out of its surroundings: a clock that stands, no sleep, and one seed. So the same calls give the same answers."""
_SHOWN = "(lambda value: None if value is None else f'{{value!r}}')((\n{}\n))"
"""A value as text, made where it is: one that is small there may have no end as text, or as the key of a dict, and no limit holds here."""


@dataclass(eq=False)
class Python:
    """The tool ``python``; what one call defines the next one knows, until :meth:`reset`.

    Code runs in another process, which is taken from a pool for the call alone: between calls the variables are plain bytes. So any
    number of episodes may hold some, and a worker that crashes costs no more than its call.
    """

    seconds: float = 2.0
    """Of execution, for a call."""
    memory: int = 64 * 2**20
    """Bytes of variables."""
    output: int = 2_000
    """Characters that are told of what a call printed and of its value; they are cut in the middle, which is said."""
    keeps: bool = True
    """Whether variables live on between calls."""
    _state: bytes | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("seconds", "memory", "output"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"{name}={value} must be above 0")

    def reset(self) -> None:
        """Forgets all variables, as at the start of an episode."""
        self._state = None

    @tool(max_characters=None)
    def python(self, code: str) -> str:
        """Run Python code. Print what you want to see; the value of a last expression is shown too.

        Args:
            code: The code.
        """
        if len(code) > MAX_CODE:
            raise ToolError(f"the code is longer than {MAX_CODE} characters")
        printed = CollectString(PRINTED * self.output)
        try:
            value = self._run(code, printed)
        except MontyCrashedError as error:
            raise ToolError(f"the code took longer than {self.seconds:g} seconds, or broke the interpreter") from error
        except MontyError as error:
            raise ToolError(self._told(printed.output, self._shown(error)), kind="python_error") from error
        return self._told(printed.output, value or "") or "no output"

    def _run(self, code: str, printed: Any) -> str | None:
        limits: ResourceLimits = {
            "max_feed_duration_secs": self.seconds,
            "max_memory": self.memory,
            "max_recursion_depth": 200,
        }
        with _pool().checkout(limits=limits, os_policy=FIXED) as session:
            if self._state is not None:
                session.load_session(self._state)
            try:
                value: str | None = session.feed_run(_showing(code), print_callback=printed)
            except MontyRuntimeError as error:
                # a limit leaves variables half changed
                if self.keeps and not isinstance(error.exception(), MemoryError | TimeoutError):
                    self._state = session.dump()
                raise
            if self.keeps:
                self._state = session.dump()
        return value

    def _shown(self, error: MontyError) -> str:
        """Type and message; without the amounts by which a limit was exceeded, which differ from one time to the next."""
        match error.exception():
            case TimeoutError():
                return f"TimeoutError: it takes longer than {self.seconds:g} seconds"
            case MemoryError():
                return f"MemoryError: it needs more than {self.memory} bytes, or prints too much"
        return brief(error.display("type-msg") if isinstance(error, MontyRuntimeError) else str(error), 500)

    def _told(self, printed: str, last: str) -> str:
        gap = "\n" if last and printed and not printed.endswith("\n") else ""  # or 1 and 2 would be 12
        return cut(f"{printed}{gap}{last}", self.output, tail=self.output // 2).rstrip("\n")


def _showing(code: str) -> str:
    """``code`` that ends with the text of its last expression, if it ends with one, and else with ``None``: nothing else leaves the sandbox."""
    code = code.removeprefix("\ufeff")
    last = _last(code)
    if not isinstance(last, ast.Expr):
        return f"{code}\nNone"
    lines = code.encode().splitlines(keepends=True)
    begin = sum(map(len, lines[: last.lineno - 1])) + last.col_offset
    end = sum(map(len, lines[: (last.end_lineno or 0) - 1])) + (last.end_col_offset or 0)
    whole = b"".join(lines)
    return whole[:begin].decode() + _SHOWN.format(whole[begin:end].decode())


def _last(code: str) -> ast.stmt | None:
    """The last statement; ``None`` where this Python reads none, whatever Monty makes of it."""
    try:
        found = statements_of(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return found[-1] if found else None


_lock = threading.Lock()


def _pool() -> Monty:
    with _lock:
        return _started()


@cache
def _started() -> Monty:
    """The workers of this process: as many as there are processors, started when they are needed."""
    pool = Monty(feed_duration_limit_grace=GRACE, max_checkouts_per_worker=1000)
    atexit.register(pool.__exit__, None, None, None)
    return pool.__enter__()
