"""Where the time of a run goes: a trace that chrome://tracing and ui.perfetto.dev show, a row a thread.

Times are those of this process: work on a GPU goes on after the call that started it.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GAP = 0.002
"""Seconds up to which two spans of one name, one behind the other, are one."""
LONGEST = 0.25
"""Seconds up to which they are."""
LATER = 500
"""Events that are written together."""


class Profile:
    """A file of spans. It can be read at any time: the format allows the end to be missing."""

    def __init__(self, path: Path) -> None:
        """Starts the file anew."""
        self._path = path
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._last: dict[int, dict[str, Any]] = {}
        self._zero = time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[\n")

    def add(self, name: str, begin: float, end: float) -> None:
        """Adds a span of this thread, from ``begin`` to ``end``, both of ``time.perf_counter``, in seconds."""
        thread = threading.get_ident()
        with self._lock:
            last = self._last.get(thread)
            if last is not None and last["name"] == name and self._joins(last, begin, end):
                last["dur"] = self._at(end) - last["ts"]
                return
            if last is None:
                self._events.append(self._named(thread, threading.current_thread().name))
            else:
                self._events.append(last)
            self._last[thread] = {
                "ph": "X",
                "name": name,
                "ts": self._at(begin),
                "dur": 1e6 * (end - begin),
                **_who(thread),
            }
            if len(self._events) >= LATER:
                self._write()

    def over(self, name: str, which: str, begin: float, end: float) -> None:
        """Adds what lasted from ``begin`` to ``end`` beside others of its ``name``; ``which`` tells it from those."""
        common = {"cat": name, "name": name, "id": which, **_who(0)}
        with self._lock:
            self._events += [{"ph": "b", "ts": self._at(begin), **common}, {"ph": "e", "ts": self._at(end), **common}]

    def close(self) -> None:
        """Writes what is left, and the end."""
        with self._lock:
            self._events += self._last.values()
            self._last.clear()
            self._write()
            with self._path.open("a") as file:
                file.write(f"{json.dumps(self._named(0, 'environments'))}\n]\n")

    def _joins(self, last: dict[str, Any], begin: float, end: float) -> bool:
        gap = self._at(begin) - last["ts"] - last["dur"]
        return bool(0.0 <= gap <= 1e6 * GAP and self._at(end) - last["ts"] <= 1e6 * LONGEST)

    def _at(self, seconds: float) -> float:
        return 1e6 * (seconds - self._zero)

    def _named(self, thread: int, name: str) -> dict[str, Any]:
        return {"ph": "M", "name": "thread_name", "args": {"name": name}, **_who(thread)}

    def _write(self) -> None:
        with self._path.open("a") as file:
            file.writelines(f"{json.dumps(event)},\n" for event in self._events)
        self._events.clear()


def _who(thread: int) -> dict[str, int]:
    return {"pid": os.getpid(), "tid": thread}


_active: Profile | None = None


@contextmanager
def profiled(path: Path | None) -> Iterator[None]:
    """Writes what :func:`span` sees, in all threads, to ``path`` while it lasts; nothing where that is ``None``."""
    global _active
    if path is None:
        yield
        return
    _active = profile = Profile(path)
    try:
        yield
    finally:
        _active = None
        profile.close()


@contextmanager
def span(name: str) -> Iterator[None]:
    """What is done inside is a span, where a profile is written."""
    if _active is None:
        yield
        return
    begin = time.perf_counter()
    try:
        yield
    finally:
        since(name, begin)


def since(name: str, begin: float) -> None:
    """A span from ``begin``, of ``time.perf_counter``, until now."""
    if (profile := _active) is not None:
        profile.add(name, begin, time.perf_counter())


def lasted(name: str, which: str, seconds: float) -> None:
    """Something that was done elsewhere has taken so many ``seconds`` until now."""
    if (profile := _active) is not None:
        now = time.perf_counter()
        profile.over(name, which, now - seconds, now)
