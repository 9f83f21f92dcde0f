"""The one thread that uses vLLM's engine in this process."""

import itertools
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias

import numpy as np
import torch

Asked: TypeAlias = "tuple[Future[Any], Callable[[Any], Any], str]"
"""What is waited for, what to do with the engine, and the name of the turn that this begins, if it begins one."""


class EngineThread:
    """Makes an ``LLMEngine``, and steps it while turns are under way: those that come join them. Between two steps it does what else is asked."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """Begins to make one: :attr:`begun` says when it is there.

        Args:
            make: Makes the engine. What it changes of this process is put back.
        """
        self.begun: Future[None] = Future()
        self.failure: BaseException | None = None
        """Why nothing more can be asked."""
        self._asked: SimpleQueue[Asked | None] = SimpleQueue()
        self._turns: dict[str, Future[Any]] = {}
        self._over = False
        self._names = map(str, itertools.count())
        self._thread = Thread(target=self._work, args=(make,), name="vllm", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[Any], Any]) -> "Future[Any]":
        """Calls ``function`` with the engine. What that raises ends everything: nobody knows what it left."""
        return self._put(function, "")

    def turn(self, add: Callable[[Any, str], Any]) -> "tuple[str, Future[Any]]":
        """Begins a turn.

        Args:
            add: Gives the engine a request of the given name. What it raises ends this turn alone.

        Returns:
            The name, and what will be its last output.
        """
        name = next(self._names)
        return name, self._put(lambda engine: add(engine, name), name)

    def abandon(self, name: str) -> None:
        """Ends a turn that nobody waits for any more."""

        def drop(engine: Any) -> None:
            if self._turns.pop(name, None) is not None:
                engine.abort_request([name])

        self.call(drop)

    def stop(self, seconds: float) -> None:
        """Ends turns, engine and thread; waits for that as long as it is told."""
        self._asked.put(None)
        self._thread.join(seconds)

    def _put(self, function: Callable[[Any], Any], name: str) -> "Future[Any]":
        future: Future[Any] = Future()
        self._asked.put((future, function, name))
        if self._over:
            future.cancel()
        return future

    def _work(self, make: Callable[[], Any]) -> None:
        try:
            with undisturbed():
                engine = make()
        except BaseException as error:
            self.failure = error
            self.begun.set_exception(error)
            return
        self.begun.set_result(None)
        while self._answers(engine):
            self._step(engine)
        self._end()
        with undisturbed():
            engine.engine_core.shutdown()

    def _end(self) -> None:
        """Nobody is left waiting."""
        self._over = True
        self._fail(RuntimeError("it was stopped"))
        while not self._asked.empty():
            if (asked := self._asked.get()) is not None:
                asked[0].cancel()

    def _answers(self, engine: Any) -> bool:
        """Does all that was asked, and waits for more where no turn is under way; whether it is to go on."""
        while not self._turns or not self._asked.empty():
            asked = self._asked.get()
            if asked is None:
                return False
            self._answer(engine, *asked)
        return True

    def _answer(self, engine: Any, future: "Future[Any]", function: Callable[[Any], Any], name: str) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            made = function(engine)
        except Exception as error:
            if not name:
                self.failure = error
            future.set_exception(error)
            return
        if name:
            self._turns[name] = future
        else:
            future.set_result(made)

    def _step(self, engine: Any) -> None:
        try:
            outputs = engine.step()
        except Exception as error:
            self._fail(error)
            return
        for output in outputs:
            if output.finished and (turn := self._turns.pop(output.request_id, None)) is not None:
                turn.set_result(output)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        while self._turns:
            self._turns.popitem()[1].set_exception(error)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Puts back what vLLM changes of this process where its engine begins or ends.

    That are the environment, the states of random numbers, how many threads torch has, and who sets that (0.32's CPU worker replaces the
    function), its default dtype, and how errors are shown.
    """
    environment, python, drawn = dict(os.environ), random.getstate(), np.random.get_state()
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    dtype, shown = torch.get_default_dtype(), sys.excepthook
    try:
        with warnings.catch_warnings(action="ignore"), torch.random.fork_rng():
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        random.setstate(python)
        np.random.set_state(drawn)
        torch.set_num_threads = set_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        sys.excepthook = shown
