"""One event loop for the async tools of a process, in one daemon thread, started when the first is called.

A tool that blocks instead of awaiting holds up every other async tool of the process, in all environments. Not covered: nothing can
interrupt it, so that even its own limit only lets its caller go on. A plain tool with a limit has a thread for each call.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")

GRACE = 1.0
"""Seconds that a cancelled call has to clean up, and, on top, that a call has to be begun, before its caller goes on without it."""

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def submit(work: Coroutine[Any, Any, T]) -> "Future[T]":
    """Begins ``work`` on the loop, in a copy of the caller's context. Cancelling the future cancels it.

    Raises:
        RuntimeError: the caller is itself on the loop, which would wait for itself.
    """
    loop = _started()
    if _current() is loop:
        work.close()
        raise RuntimeError("an async tool cannot wait for a tool that is async; await the function itself")
    return asyncio.run_coroutine_threadsafe(work, loop)


async def limited(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """What ``work`` returns. It is cancelled after so many seconds, and then has :data:`GRACE` to end.

    Raises:
        LateError: time ran out.
    """
    task = asyncio.ensure_future(work)
    try:
        if not (await asyncio.wait([task], timeout=seconds))[0]:
            raise LateError
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            # unlike awaiting the task, this ends where the task ignores that it was cancelled
            await asyncio.wait([task], timeout=GRACE)


class LateError(Exception):
    """A call took longer than its limit."""


def is_cancelled() -> bool:
    """Whether somebody cancels the task that runs; a coroutine can raise the same on its own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def within(seconds: float, work: Callable[[], T]) -> T:
    """What ``work`` returns, in a thread of its own, in a copy of the caller's context. A thread cannot be killed: one that is late goes on.

    Raises:
        LateError: time ran out.
    """
    future: Future[T] = Future()
    threading.Thread(target=copy_context().run, args=(settle, future, work), daemon=True).start()
    if not wait([future], timeout=seconds).done:
        raise LateError
    return future.result()


def settle(future: "Future[Any]", work: Callable[[], Any]) -> None:
    """Runs ``work`` and puts what came of it, an exception included, into ``future``; for a thread of its own."""
    try:
        future.set_result(work())
    except BaseException as error:  # handed to the caller, who decides
        future.set_exception(error)


def _current() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _started() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_serve, args=(_loop,), name="agentopd-tools", daemon=True).start()
        return _loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    while True:  # a task that raises SystemExit, or stops the loop, would leave all others waiting
        try:
            loop.run_forever()
        except BaseException:
            _log.warning("a task of an async tool raised what ends a program; the loop goes on", exc_info=True)


def _forget() -> None:
    """In a forked child, which has the loop but not its thread, nor whoever held the lock."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
