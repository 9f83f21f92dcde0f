"""Python's parser, as threads use it."""

import ast
import gc
import threading
import time
from collections.abc import Iterator

import pytest

from agentopd.tooling.syntax import expression_of

DEEP = "(" * 20 + "1" + "+2)" * 20


@pytest.fixture
def _often_collected() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(20, 1_000_000)  # the young alone: all that was imported would take long
    yield
    gc.set_threshold(*before)


class _Cycle:
    """Garbage that lets other threads go on in the middle of whatever the interpreter does."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(1e-5)


@pytest.mark.usefixtures("_often_collected")
def test_threads_parse_side_by_side() -> None:
    raised: list[SystemError] = []
    end = time.monotonic() + 2.0

    def parse() -> None:
        while time.monotonic() < end and not raised:
            _Cycle()
            try:
                assert isinstance(expression_of(DEEP), ast.BinOp)
            except SystemError as error:
                raised.append(error)

    threads = [threading.Thread(target=parse) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not raised
