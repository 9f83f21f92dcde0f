"""What became of each call of a tool, written down beside the answers, for whoever opened a recording around them.

The recording travels in context variables, so that no environment or wrapper has to pass it on. Threads and tasks that this room starts
carry it; a thread of a tool's own does not unless it runs in ``contextvars.copy_context()``.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from agentopd.errors import ToolError
from agentopd.types import CallOutcome


class Running:
    """One call, from when it was asked for."""

    def __init__(self, name: str) -> None:
        self._name, self._begin = name, time.perf_counter()
        self.was_cut = False
        self.outcome: CallOutcome | None = None
        """``None`` until it ended, and for good where an exception other than a ``ToolError`` ended it."""

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around the work: its clock starts, and what is cut inside is this call's."""
        self._begin, before = time.perf_counter(), _running.set(self)
        try:
            yield
        except ToolError as error:
            self.end(error.kind)
            raise
        else:
            self.end("ok")
        finally:
            _running.reset(before)

    def end(self, outcome: str) -> None:
        """Writes down how it ended; the first word counts."""
        if self.outcome is None:
            self.outcome = CallOutcome(self._name, outcome, time.perf_counter() - self._begin, self.was_cut)


class Recording:
    """The calls that were begun since it was opened."""

    def __init__(self) -> None:
        self._begun: list[Running] = []

    @property
    def outcomes(self) -> tuple[CallOutcome, ...]:
        """Of the calls that have ended, in the order in which they were begun."""
        return tuple(call.outcome for call in self._begun if call.outcome is not None)

    def begin(self, name: str) -> Running:
        """Adds a call."""
        self._begun.append(running := Running(name))
        return running


_recording: ContextVar[Recording | None] = ContextVar("agentopd_recording", default=None)
_running: ContextVar[Running | None] = ContextVar("agentopd_running", default=None)


@contextmanager
def recording() -> Iterator[Recording]:
    """Records the calls of any :class:`~agentopd.tooling.ToolSet` inside, those that a tool makes of others among them."""
    opened = Recording()
    before = _recording.set(opened)
    try:
        yield opened
    finally:
        _recording.reset(before)


def begun(name: str) -> Running:
    """A call that begins now, in the recording that is open, if one is."""
    opened = _recording.get()
    return Running(name) if opened is None else opened.begin(name)


def note_cut() -> None:
    """Notes that the answer of the call that runs was cut."""
    if (running := _running.get()) is not None:
        running.was_cut = True
