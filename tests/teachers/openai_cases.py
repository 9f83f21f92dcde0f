"""A chat, episodes with tools, and teachers behind an API, for the tests of these."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from talking_cases import Reply, Talking

from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.rollout import EnvConfig, Rollout, TaskStream, assign, collect
from agentopd.teachers import TeacherContext
from agentopd.teachers.openai import openai
from agentopd.types import EXPERT, Trajectory

Serve: TypeAlias = Callable[[Reply], Talking]


@cache
def chat() -> Chat:
    return Chat(build_tokenizer(["Buy two pears, then pay. The total is 17.", "price stock pay submit answer"], 500))


@cache
def played(seed: int = 3, episodes: int = 2) -> tuple[Trajectory, ...]:
    """Episodes with tools, as the environment's expert plays them."""
    stream = TaskStream([EnvConfig(id="agentopd/Checkout-v0")], seed, "train")
    assignments = assign(stream, range(episodes), "fresh", {EXPERT: 1.0}, 1, "run", 0, seed)
    return tuple(collect(assignments, {}, chat(), Rollout(max_length=2048, max_new_tokens=128)))


def lent(folder: Path | None = None, temperature: float = 1.0) -> TeacherContext:
    return TeacherContext("judge", chat(), lambda _: pytest.fail("it loads nothing"), temperature, folder=folder)


def of(server: Talking, folder: Path | None = None, temperature: float = 1.0, **settings: Any) -> Any:
    return openai(lent(folder, temperature), url=server.base, **{"patience": 5.0, **settings})
