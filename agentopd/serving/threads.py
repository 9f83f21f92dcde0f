"""Threads that ask servers: who leaves waits for none of them."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Tasks: TypeAlias = "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]"


class Threads:
    """Some daemon threads that do what they are given, in its order. They end when nobody has them any more."""

    def __init__(self, count: int) -> None:
        """Starts ``count`` threads."""
        self._tasks: Tasks = SimpleQueue()
        for _ in range(count):
            threading.Thread(target=_work, args=(self._tasks,), daemon=True).start()  # which must not hold this object
        weakref.finalize(self, _dismiss, self._tasks, count).atexit = False

    def begin(self, function: Callable[P, T], *arguments: P.args, **settings: P.kwargs) -> "Future[T]":
        """Calls ``function`` in one of the threads, as soon as one is free, unless the future is cancelled before; the result, or what it raised, is in the future."""
        future: Future[T] = Future()
        self._tasks.put((future, lambda: function(*arguments, **settings)))
        return future


def _work(tasks: Tasks) -> None:
    while (task := tasks.get()) is not None:
        future, call = task
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        del task, future, call  # or the last result would be kept while there is nothing to do


def _dismiss(tasks: Tasks, count: int) -> None:
    for _ in range(count):
        tasks.put(None)
