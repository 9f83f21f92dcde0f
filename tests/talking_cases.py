"""A server over real HTTP that answers chat completions as it is told to, and misbehaves when told to."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from serving_cases import Handler, running

Reply: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def said(content: str | None = None, *calls: tuple[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    """A completion. Arguments that are no text are written as JSON."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"c{i}",
                "type": "function",
                "function": {"name": name, "arguments": a if isinstance(a, str) else json.dumps(a)},
            }
            for i, (name, a) in enumerate(calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": finish} | more
    return {"id": "x", "object": "chat.completion", "model": "tiny-1", "choices": [choice], "usage": USAGE}


def likely(*tokens: tuple[str, Mapping[str, float]]) -> dict[str, Any]:
    """Log-probabilities, one pair a token: what was written, and the logarithms of what might have stood there."""
    content = []
    for written, top in tokens:
        tops = [{"token": one, "bytes": [*one.encode()], "logprob": p} for one, p in top.items()]
        content.append(
            {"token": written, "bytes": [*written.encode()], "logprob": top.get(written, -9.0), "top_logprobs": tops}
        )
    return {"content": content}


@dataclass
class Talking:
    """What the server says, and how it next misbehaves: each fault is taken once, in order.

    A fault is a status; ``half`` of a body; ``late``; ``hang`` up; or a text or mapping that is the body.
    """

    reply: Reply
    models: Sequence[str] = ("tiny",)
    faults: deque[Any] = field(default_factory=deque)
    asked: list[dict[str, Any]] = field(default_factory=list)
    authorized: list[str | None] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""
    away_after: int | None = None
    lists: int = 0

    @property
    def base(self) -> str:
        """The address that a client takes."""
        return f"{self.url}/v1"


class _Chatting(Handler):
    def do_GET(self) -> None:
        held = self.server.served
        held.lists += 1
        held.authorized.append(self.headers.get("Authorization"))
        if not held.models:
            self.answered(404, b"{}")
            return
        self.answered(200, json.dumps({"data": [{"id": one} for one in held.models]}).encode())

    def scored(self, asked: dict[str, Any], fault: Any) -> None:
        held = self.server.served
        held.headers.append(dict(self.headers.items()))
        time.sleep(0.5 if fault == "late" else 0.01)
        if isinstance(fault, Mapping):
            body = json.dumps(fault).encode()
        elif fault in ("half", "late", None):
            body = json.dumps(held.reply(asked)).encode()
        else:
            body = str(fault).encode()
        sent = body[: len(body) // 2] if fault == "half" else body
        self.close_connection = fault == "half"
        self.answered(200, sent, Content_Length=str(len(body)))


@contextmanager
def talking(reply: Reply, models: Sequence[str] = ("tiny",)) -> Iterator[Talking]:
    """A server on loopback while the block lasts."""
    held = Talking(reply, models)
    with running(held, _Chatting):
        yield held
