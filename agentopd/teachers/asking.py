"""What teachers share that ask a model in words: questions from many threads."""

import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np

from agentopd.chat.conversation import conversation
from agentopd.serving import Answer, ChatServer, RefusedError, SpentError, Threads
from agentopd.teachers.base import Stateless, turns_of
from agentopd.tooling.action import render_action
from agentopd.tooling.answer import well_formed
from agentopd.types import Annotation, Key, Message, ToolCall, Trajectory

_log = logging.getLogger(__name__)
R = TypeVar("R")
T = TypeVar("T")

BROKEN_OFF = frozenset({"length", "content_filter"})
"""How answers end that are not whole."""
OF_THIS = frozenset({400, 413, 422})
"""Statuses that may be about this one question."""
SPENT = ("requests", "prompt_tokens", "completion_tokens", "cost")
"""The metrics that all of them tell, ``cost`` where there are prices; ``skipped`` beside: turns to which no answer could be used."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Asking(Stateless, Generic[R]):
    """A base for teachers that ask a server of chat completions. What they make of an answer is an ``R``."""

    server: ChatServer
    body: Mapping[str, Any]
    """What every request says beside its messages."""
    threads: Threads
    counted: Counter[str] = field(default_factory=Counter)
    """What :meth:`metrics` will tell."""

    def heard(self, asked: Sequence[Future[R]]) -> list[R | None]:
        """The answers; ``None`` for a question that the server refused for what it holds, such as one that is too long.

        Raises:
            TeacherError: It failed otherwise, or refused all of them. What has not been sent yet is not sent then; where the cap is reached
                what was sent is waited for, since it is paid for.
        """
        try:
            return self._heard(asked)
        except BaseException as error:
            begun = [one for one in (*asked, *self.ahead()) if not one.cancel()]
            if isinstance(error, SpentError):
                wait(begun)
            raise

    def ahead(self) -> Iterable[Future[R]]:
        """What was asked of episodes that nobody has asked about yet."""
        return ()

    def _heard(self, asked: Sequence[Future[R]]) -> list[R | None]:
        found: list[R | None] = []
        refused: list[RefusedError] = []
        for one in asked:
            try:
                found.append(one.result())
            except RefusedError as error:
                if error.status not in OF_THIS:
                    raise
                found.append(None)
                refused.append(error)
        if refused and len(refused) == len(asked):
            raise refused[0]
        for reason in refused:
            _log.warning("%s; this is skipped", reason)
        return found

    def forget(self) -> None:
        """Asks the same questions again, where no folder keeps the answers."""
        self.server.answers.forget()

    def state(self) -> dict[str, Any]:
        """The model that answered, for a resumed run, in which another may answer no more than in this one."""
        return {"model": self.server.known}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes that model for the one that answers."""
        self.server.known = state.get("model")  # not in checkpoints of runs that kept none

    def turns(self, trajectory: Trajectory) -> Iterable[int]:
        """The turns that are asked about: those that ``where`` selects."""
        return np.flatnonzero(turns_of(self.where, trajectory)).tolist()

    def said(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> Answer:
        """What the model answers to a conversation."""
        answer = self.server.ask({"messages": list(messages), **self.body, **more})
        return replace(answer, content=well_formed(answer.content))  # some cut an emoji in two

    def asked_twice(self, text: str, read: Callable[[Answer], T | None], again: str) -> T | None:
        """What ``read`` makes of the answer to ``text``, or else of the answer to ``again`` behind it; ``None`` where both are nothing."""
        asked = [{"role": "user", "content": text}]
        answer = self.said(asked)
        found = None if answer.finish in BROKEN_OFF else read(answer)
        if found is None:
            behind = [{"role": "assistant", "content": answer.content}, {"role": "user", "content": again}]
            answer = self.said(asked + behind)
            found = None if answer.finish in BROKEN_OFF else read(answer)
        return found

    def metrics(self) -> Mapping[str, float]:
        """What was spent, and how many turns were skipped."""
        spent = asdict(self.server.ledger.since())
        told = {name: float(spent[name]) for name in SPENT if name != "cost" or self.server.ledger.prices is not None}
        counted = {"skipped": 0.0, **self.counted}
        self.counted.clear()
        return told | counted

    def spending(self) -> str:
        """What was spent in all."""
        return self.server.ledger.text()


@dataclass(frozen=True, eq=False, kw_only=True)
class AskingByTurn(Asking[R], ABC):
    """A base for those that ask about one turn at a time, as soon as its episode is over."""

    begun: dict[Key, dict[int, Future[R]]] = field(default_factory=dict)
    """What was asked of episodes that are over."""

    def begin(self, trajectory: Trajectory) -> None:
        """Asks, without waiting for the answer."""
        self.begun[trajectory.key] = self._asked(trajectory)

    def ahead(self) -> Iterable[Future[R]]:
        """Those of :attr:`begun`."""
        return [one for some in self.begun.values() for one in some.values()]

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """What the answers come to.

        Raises:
            TeacherError: The server refused, failed for too long, or answered what cannot be used; or the cap is reached.
        """
        asked = [self.begun.pop(one.key) if one.key in self.begun else self._asked(one) for one in trajectories]
        heard = iter(self.heard([answer for some in asked for answer in some.values()]))
        found = [{turn: next(heard) for turn in some} for some in asked]
        return [self.annotation(*pair) for pair in zip(trajectories, found, strict=True)]

    @abstractmethod
    def question(self, trajectory: Trajectory, turn: int) -> R:
        """Asks about one turn, in one of the threads."""

    @abstractmethod
    def annotation(self, trajectory: Trajectory, found: Mapping[int, R | None]) -> Annotation:
        """What the answers about an episode come to, by their turns."""

    def _asked(self, trajectory: Trajectory) -> dict[int, Future[R]]:
        return {turn: self.threads.begin(self.question, trajectory, turn) for turn in self.turns(trajectory)}


def told(trajectory: Trajectory, turn: int) -> str:
    """The conversation before a turn as text; the number of turns gives all of it."""
    return "\n\n".join(f"[{_speaker(message)}]\n{_text(message)}" for message in conversation(trajectory, turn))


def acted(trajectory: Trajectory, turn: int) -> str:
    """The action of a turn as text, in the form of :func:`told`."""
    return _text(conversation(trajectory, turn + 1)[len(conversation(trajectory, turn))])


def _speaker(message: Message) -> str:
    return f"{message['role']} {message['name']}" if "name" in message else message["role"]


def _text(message: Message) -> str:
    calls = [ToolCall(one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls", ())]
    return "\n".join(filter(None, [message["content"], render_action("", calls)]))


def facts(trajectory: Trajectory) -> str:
    """What the environment tells teachers alone, one fact a line."""
    return "\n".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in trajectory.privileged.items()
    )
