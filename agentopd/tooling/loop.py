"""One event loop for all that is async, in one daemon thread of this process."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")


class _Running:
    """The loop, once something has asked for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: threading.Thread | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        with self.lock:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                self.thread = threading.Thread(target=self.loop.run_forever, name="agentopd-loop", daemon=True)
                self.thread.start()
            return self.loop


_running = _Running()


def _forget() -> None:
    global _running
    _running = _Running()


os.register_at_fork(after_in_child=_forget)  # the thread does not live on in a forked process


def start(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Begins ``coroutine`` on the loop, from any thread; cancelling the future cancels it."""
    return asyncio.run_coroutine_threadsafe(coroutine, _running.get())


def soon(call: Callable[[], object]) -> None:
    """Has the loop make a call, without waiting for it."""
    _running.get().call_soon_threadsafe(call)


def run(coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Runs ``coroutine`` on the loop and waits for it.

    Args:
        coroutine: What to run.
        timeout: Seconds, after which it is cancelled; ``None`` waits for ever.

    Raises:
        OutOfTimeError: Time ran out. A ``TimeoutError`` of the coroutine's own passes as it is, as does whatever else it raises.
        RuntimeError: It is called on the loop itself, which would then wait for itself.
    """
    if on_loop():
        coroutine.close()
        raise RuntimeError("run() is called on the event loop itself: await the coroutine there")
    future = start(coroutine)
    if not wait([future], timeout=timeout).done:
        future.cancel()
        raise OutOfTimeError(f"no answer within {timeout:g} s")
    return future.result()


def on_loop() -> bool:
    """Whether the thread that asks is the loop's."""
    return threading.current_thread() is _running.thread


class OutOfTimeError(TimeoutError):
    """What was run took longer than it may; it was cancelled."""
