"""A time limit for a whole request: HTTPX's own start anew with each byte that comes, so a server that drips has none."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

_BEGAN = "agentopd.began"


def deadline(seconds: float) -> dict[str, list[Callable[..., Any]]]:
    """The event hooks of a client that gives a request up when its answer is not there as a whole after so many seconds."""

    def begin(request: httpx2.Request) -> None:
        request.extensions[_BEGAN] = time.monotonic()

    def bound(answer: httpx2.Response) -> None:
        assert isinstance(answer.stream, httpx2.SyncByteStream)
        answer.stream = _Bounded(answer.stream, answer.request.extensions[_BEGAN] + seconds)

    return {"request": [begin], "response": [bound]}


class _Bounded(httpx2.SyncByteStream):
    """A body that must have come by a moment of the monotonic clock."""

    def __init__(self, stream: httpx2.SyncByteStream, end: float) -> None:
        self._stream, self._end = stream, end

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            if time.monotonic() > self._end:
                raise httpx2.ReadTimeout("the answer came too slowly")
            yield part

    def close(self) -> None:
        self._stream.close()
