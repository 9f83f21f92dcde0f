"""What an MCP server says, measured before the client makes objects of it, which takes a thousand times as long and lets nobody else go on."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self

import mcp_types as types
from mcp.shared.message import SessionMessage

PARTS = 20_000
"""Values, nested ones included, of one answer."""


@asynccontextmanager
async def bounded(transport: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
    """The streams of ``transport``, of which the one that is read gives an error in place of an answer with more than ``PARTS``.

    Not covered: bytes. A server that never ends its line is remembered as long as it lives.
    """
    async with transport as (read, write):
        yield _Bounded(read), write


class _Bounded:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *given: Any) -> Any:
        return await self._stream.__aexit__(*given)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return _measured(await self._stream.__anext__())

    async def receive(self) -> Any:
        return _measured(await self._stream.receive())


def _measured(item: Any) -> Any:
    message = getattr(item, "message", None)
    if not isinstance(message, types.JSONRPCResponse):
        return item
    if _parts(message.result) <= PARTS:
        _forget_promises(message.result)
        return item
    error = types.ErrorData(code=types.INTERNAL_ERROR, message=f"the answer has more than {PARTS} parts")
    return SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=message.id, error=error))


def _forget_promises(result: Any) -> None:
    """Takes the schemas of answers out of a list of tools. The client would hold each answer against its tool's, on the loop of all
    servers: a pattern in it may take for ever. A model reads an answer as it is."""
    for tool in result.get("tools", ()) if isinstance(result, dict) else ():
        if isinstance(tool, dict):
            tool.pop("outputSchema", None)


def _parts(value: Any) -> int:
    """How many values there are in plain data; no more are counted than tell that there are too many."""
    count, layer = 0, [value]
    while layer and count <= PARTS:
        count += len(layer)
        layer = [
            inner
            for one in layer
            for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
    return count
