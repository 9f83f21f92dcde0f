"""Settings that all tests share, and servers that some start."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import settings
from talking_cases import Reply, Talking, talking

# A busy machine makes a single example slow, which says nothing about the code.
settings.register_profile("agentopd", deadline=None)
settings.load_profile("agentopd")


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], Talking]]:
    """Starts servers of chat completions, which end with the test."""
    with ExitStack() as opened:
        yield lambda reply: opened.enter_context(talking(reply))
