"""The errors of agentopd: one flat family, named by the boundary at which something went wrong."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class AgentOPDError(Exception):
    """Base of every error that agentopd raises on purpose."""

    is_told = False
    """Whether another process of the same run tells it."""


class ConfigError(AgentOPDError, ValueError):
    """A setting is wrong. The message names the key, the value and the remedy."""


class EnvError(AgentOPDError):
    """An environment failed: it raised, hung, or broke the contract."""


class ToolError(AgentOPDError):
    """A tool refused or failed. Inside an episode its message becomes an observation and ``kind`` is counted.

    ``kind`` is ``unknown_tool``, ``bad_arguments``, ``tool_error``, ``tool_crash``, ``tool_timeout``,
    ``no_call``, ``invalid_action``, or a name of one's own.
    """

    def __init__(self, message: str, kind: str = "tool_error"):
        super().__init__(message)
        self.kind = kind


class PolicyError(AgentOPDError):
    """A policy could not act: its engine failed or returned something impossible."""


class TeacherError(AgentOPDError):
    """A teacher could not annotate."""


class RecordError(AgentOPDError):
    """A record cannot be written, read or trusted."""


class TrainingError(AgentOPDError):
    """Training cannot go on, for instance because the loss is not finite."""


def describe(error: BaseException) -> str:
    """``Type: message`` of an exception. Never raises: a message that cannot be formed is left out.

    Half surrogates, as in the name of a file that is not UTF-8, are escaped: the text can be written anywhere.
    """
    try:
        return f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()
    except Exception:
        return type(error).__name__


def first_line(error: BaseException) -> str:
    """What a message repeats of an error of somebody else's: the first line of ``Type: message``, and what ends it where it breaks off."""
    first, *more = (line.strip() for line in describe(error).split("\n") if line.strip())
    if more and first.endswith("("):  # a module, shown over many lines
        first = first[:-1] + more[-1].lstrip(")")
    elif more and first.endswith(":"):
        first = f"{first} {more[0]}"
    return first.rstrip(".")


@contextmanager
def under(key: str) -> Iterator[None]:
    """Puts the path ``key`` before the bare setting that a ConfigError begins with, such as ``model=...`` or ``hint.place=...``; leaves
    others as they are."""
    try:
        yield
    except ConfigError as error:
        if not re.match(r"\w+=|hint\.\w", str(error)):
            raise
        raise ConfigError(f"{key}.{error}") from error
