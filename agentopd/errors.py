"""The errors of agentopd: one flat family, named by the boundary at which something went wrong."""

import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

_HERE = Path(__file__).parent
_PACKAGES = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
_PYTHON = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}


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
    """The last line that ran in the environment's code: what that called in Python's library or an installed package says little."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.line]
    ranked = ((_rank(Path(frame.filename)), frame) for frame in reversed(frames))
    rank, frame = max(ranked, key=itemgetter(0), default=(0, None))  # of equals the last line
    return frame if rank else None


def _rank(file: Path) -> int:
    """How likely a file is the environment's: 3 one's own, or ours of tools and environments; 2 a package's; 1 Python's; 0 surely not."""
    if file.is_relative_to(_HERE):
        return 3 if file.relative_to(_HERE).parts[0] in ("envs", "tools") else 0
    for home in _PACKAGES:
        if file.is_relative_to(home):  # Python's own library may hold the folder of packages
            return 0 if file.relative_to(home).parts[0] in ("gymnasium", "numpy") else 2
    return 1 if any(file.is_relative_to(home) for home in _PYTHON) else 3


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
