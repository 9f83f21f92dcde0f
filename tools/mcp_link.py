"""One connection to an MCP server, by the official client: opened, used from any thread, and closed."""

import asyncio
import atexit
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from gymnasium.error import DependencyNotInstalled

from agentopd.errors import EnvError, ToolError, first_line
from agentopd.serving.keys import hidden
from agentopd.tooling import CRASH, brief
from agentopd.tooling.loop import GRACE, LateError, limited, submit

try:
    import mcp_types as types
    from mcp import Client, MCPError, StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client

    from agentopd.tools.mcp_stream import bounded
except ImportError as error:
    raise DependencyNotInstalled("MCP servers need the package mcp: pip install 'agentopd[mcp]'") from error

__all__ = ["Address", "Link", "types"]

CLOSING = 8.0
"""Seconds that a server has to end, the client's own steps of ending and killing it included."""
HEARD = 2000
"""Bytes of what a server says on its error stream that are kept."""
PAGES = 100
"""Of a list of tools; a server that gives more gives them without end."""

_log = logging.getLogger(__name__)
_open: set["Link"] = set()


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where a server is, with the keys that it is sent: so it is never shown or written."""

    command: tuple[str, ...] = ()
    """What starts it, where it speaks by its standard streams."""
    env: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    """What no message may repeat."""

    def hidden(self, text: str) -> str:
        """``text`` without keys."""
        for key in self.keys:
            text = hidden(text, key)
        return text


class Link:
    """A connection, and where this starts the server, its process.

    It lives in one task of the event loop from beginning to end, as the client wants it. Nothing is waited for here.
    """

    def __init__(self, who: str, address: Address) -> None:
        """Begins to open it. ``who`` names the server in messages."""
        self.who, self.address, self.process = who, address, os.getpid()
        self._stop = asyncio.Event()
        self._opened: Future[tuple[Client, list[types.Tool]]] = Future()
        self._ended: Future[None] = Future()
        self._heard = _Heard(self._stop)
        self._refused: int | None = None
        self._told = False
        _open.add(self)
        self._kept = submit(self._keep())

    def opened(self, seconds: float) -> list[types.Tool]:
        """The server's tools, once it is there.

        Raises:
            EnvError: It did not start, or not in time; it is then ended.
        """
        if not wait([self._opened], timeout=seconds).done:
            self.stop()
            raise EnvError(
                f"{self.who} did not start within start_limit={seconds:g} seconds{self._last_words()}; raise it, or, where many start at "
                "once, let all episodes share one server: fresh: false"
            )
        if error := self._opened.exception():
            raise EnvError(f"{self.who} did not start: {self._why(error)}{self._last_words()}") from error
        return self._opened.result()[1]

    @property
    def alive(self) -> bool:
        """Whether it can be used, as far as is known; a forked process cannot use that of its parent."""
        return not (self._told or self._ended.done() or self._stop.is_set()) and self.process == os.getpid()

    def call(self, name: str, arguments: Mapping[str, Any], seconds: float, prefix: str = "") -> types.CallToolResult:
        """What the server answers to a call. Its messages to models put ``prefix`` before the name.

        Raises:
            ToolError: It did not answer in time (``tool_timeout``), refused the arguments (``bad_arguments``), or could not run the
                tool (``tool_crash``).
            EnvError: The server is gone.
        """
        try:
            client = self._opened.result()[0]
            work = submit(limited(client.call_tool(name, dict(arguments)), seconds))
            if wait([work], timeout=seconds + 2 * GRACE).done:
                return work.result()
            work.cancel()  # something else blocks the loop
            raise LateError
        except LateError:
            raise ToolError(f"{prefix}{name}: no answer within {seconds:g} s", kind="tool_timeout") from None
        except MCPError as error:
            if error.code == types.CONNECTION_CLOSED or self._refused is not None:
                raise self._gone(error) from error
            kind = "bad_arguments" if error.code == types.INVALID_PARAMS else CRASH
            raise ToolError(f"{prefix}{name}: {self.address.hidden(brief(error.message, 200))}", kind=kind) from error
        except (
            RuntimeError,
            ValueError,
        ) as error:  # an answer that breaks the protocol or the tool's own schema, or it is closed
            if not self.alive:
                raise self._gone(error) from error
            raise ToolError(f"{prefix}{name}: {self.address.hidden(brief(str(error), 200))}", kind=CRASH) from error
        except Exception as error:
            raise self._gone(error) from error

    def stop(self) -> None:
        """Ends it, without waiting; any thread may ask."""
        if self.process != os.getpid():
            return
        try:
            submit(self._end())
        except RuntimeError:  # the loop itself asks: what nobody holds any more may be collected there
            self._finish()

    def close(self) -> None:
        """Ends it, and waits until it is ended. Not for the loop."""
        self.stop()
        if self.process == os.getpid():
            wait([self._ended], timeout=CLOSING)

    async def _end(self) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._opened.done():
            self._stop.set()
        else:
            self._kept.cancel()

    async def _keep(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(Client(bounded(await self._transport(stack))))
                tools = await _tools(client)
                self._refused = None  # what does not know the newest protocol refuses the first question
                self._opened.set_result((client, tools))
                await self._stop.wait()
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            elif not self._stop.is_set():
                _log.warning("%s: %s", self.who, self._why(error))
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            _open.discard(self)
            self._ended.set_result(None)

    async def _transport(self, stack: AsyncExitStack) -> Any:
        address = self.address
        if address.url:
            hooks: dict[str, list[Callable[..., Any]]] = {"response": [self._look]}
            timeout = httpx2.Timeout(
                30.0, read=None
            )  # the limit of a call is kept above, and a stream may be silent for long
            client = httpx2.AsyncClient(
                headers={"Accept-Encoding": "identity"} | dict(address.headers),
                timeout=timeout,
                trust_env=False,
                event_hooks=hooks,
            )
            return streamable_http_client(address.url, http_client=await stack.enter_async_context(client))
        return self._started()

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[Any]:
        """The streams of a process; its error stream ends with it, and then so does all."""
        first, *rest = self.address.command
        server = StdioServerParameters(command=first, args=rest, env=dict(self.address.env), cwd=self.address.folder)
        read, written = os.pipe()
        with os.fdopen(written, "w") as errors:
            await asyncio.get_running_loop().connect_read_pipe(lambda: self._heard, os.fdopen(read, "rb", 0))
            async with stdio_client(server, errlog=errors) as streams:
                errors.close()
                yield streams

    async def _look(self, response: httpx2.Response) -> None:
        plain = response.request.method == "POST" and response.status_code >= 400
        if plain and not response.headers.get("content-type", "").startswith("application/json"):
            self._refused = response.status_code
        if (
            response.headers.get("content-encoding", "identity") != "identity"
        ):  # which may be a thousand times as long as it is sent
            raise httpx2.DecodingError("the answer is compressed, which was not asked for")

    def _gone(self, error: Exception) -> EnvError:
        if self.address.command:
            wait([self._ended], timeout=1.0)  # by then its last words are heard
        answered = f"it answered HTTP {self._refused}" if self._refused is not None else self._why(error)
        message = f"{self.who} is gone: {answered}{self._last_words()}"
        if not self._told:
            self._told = True
            _log.warning("%s; the next episode starts anew", message)
        return EnvError(message)

    def _why(self, error: BaseException) -> str:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return self.address.hidden(brief(first_line(error), 300))

    def _last_words(self) -> str:
        text = self._heard.text.decode(errors="replace").strip()
        return f" (its last words: {self.address.hidden(brief(text.splitlines()[-1], 300))})" if text else ""


class _Heard(asyncio.Protocol):
    """The end of what a server says on its error stream."""

    def __init__(self, ended: asyncio.Event) -> None:
        self.text, self._ended = b"", ended

    def data_received(self, data: bytes) -> None:
        self.text = (self.text + data)[-HEARD:]

    def connection_lost(self, _: Exception | None) -> None:
        self._ended.set()


async def _tools(client: Client) -> list[types.Tool]:
    found: list[types.Tool] = []
    cursor: str | None = None
    for _ in range(PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise EnvError(f"its list of tools has more than {PAGES} pages")


def _close_all() -> None:
    """No server outlives this process."""
    for link in [link for link in _open if link.process == os.getpid()]:
        link.stop()
    for link in list(_open):
        link.close()


atexit.register(_close_all)
