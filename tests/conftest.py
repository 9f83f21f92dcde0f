"""Settings that all tests share, and servers that some start."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import settings
from talking_cases import Reply, Talking, talking

# A busy machine makes a single example slow, which says nothing about the code.
settings.register_profile("agentopd", deadline=None)
settings.load_profile("agentopd")


def pytest_collection_finish() -> None:
    """Leaves what was imported out of garbage collection: every training run asks for a whole one, and all these modules made it half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], Talking]]:
    """Starts servers of chat completions, which end with the test."""
    with ExitStack() as opened:
        yield lambda reply: opened.enter_context(talking(reply))
