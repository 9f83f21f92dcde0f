"""The errors of agentopd: one flat family, named by the boundary at which something went wrong."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HERE = Path(__file__).parent


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


def described_with_place(error: BaseException) -> str:
    """As :func:`describe`, and where it was raised; of our errors without that, since they say what to do.

    The line itself is left out: such messages are kept in records, and it may hold a secret.
    """
    frame = None if isinstance(error, AgentOPDError) else _theirs(error)
    place = f" ({Path(frame.filename).name}, line {frame.lineno})" if frame else ""
    return describe(error) + place.encode(errors="backslashreplace").decode()


def place_of(error: BaseException) -> str:
    """File, number and text of the last line that ran in an environment's or a tool's own code, in brackets; empty where none did."""
    frame = _theirs(error)
    if frame is None:
        return ""
    line = frame.line or ""
    return f" ({Path(frame.filename).name}, line {frame.lineno}: {line if len(line) <= 100 else f'{line[:99]}…'})"


def _theirs(error: BaseException) -> traceback.FrameSummary | None:
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame for frame in reversed(frames) if frame.line and _is_theirs(Path(frame.filename))), None)


def _is_theirs(file: Path) -> bool:
    if {"gymnasium", "numpy"} & set(file.parts):
        return False
    return not file.is_relative_to(_HERE) or file.relative_to(_HERE).parts[0] in ("envs", "tools")


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
