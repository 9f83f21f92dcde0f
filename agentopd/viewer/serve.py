"""The viewer of records too many for one file: a server of this machine alone, which reads each trajectory when it is looked at."""

import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from http.client import HTTP_PORT
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agentopd.errors import RecordError
from agentopd.viewer.bundle import head, tail, text
from agentopd.viewer.index import Index
from agentopd.viewer.sources import Source
from agentopd.viewer.view import title_of

LOOPBACK = "127.0.0.1"
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
STEPS = 8
"""Steps whose signals stay in memory."""


class Site:
    """What the server answers with. The list is made once; trajectories are read one by one."""

    def __init__(self, sources: Sequence[Source], say: Callable[[int], object] = lambda count: None) -> None:
        """Reads all records once for the list."""
        index = Index()
        self._sources = sources
        self._places: list[tuple[int, str]] = []
        for number, source in enumerate(sources):
            for record, tokens in source:
                index.add(record, tokens, source.name, len(index), 0)
                self._places.append((number, str(record.trajectory.key)))
                if len(index) % 100 == 0:
                    say(len(index))
        self._page = head(title_of(sources), served=True) + tail()
        self._index = text(index.plain(title_of(sources), sources))
        self._reading = threading.Lock()
        self._signals = lru_cache(maxsize=STEPS)(lambda number, step: self._sources[number].signals(step))

    def answer(self, path: str) -> tuple[str, str] | None:
        """The media type and the text of ``""`` (the page), ``index`` or ``block/N``; ``None`` for anything else."""
        if path == "":
            return "text/html; charset=utf-8", self._page
        if path == "index":
            return "application/json", self._index
        kind, _, number = path.partition("/")
        if kind == "block" and number.isdecimal() and len(number) < 10 and int(number) < len(self._places):
            return "application/json", self._trajectory(int(number))
        return None

    def _trajectory(self, place: int) -> str:
        number, key = self._places[place]
        source = self._sources[number]
        with self._reading:
            record = source.records[key]
            signals = self._signals(number, record.trajectory.key.step).of(record.trajectory.key)
            return text([source.payload(record, source.tokens(record, signals))])


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, token: str, port: int) -> None:
        self.token = token
        self.site: Site | None = None
        super().__init__((LOOPBACK, port), _Handler)

    def answer(self, path: str) -> tuple[str, str] | None:
        """What the site answers; nothing before there is one."""
        return None if self.site is None else self.site.answer(path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away before it has its answer is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def names(self) -> tuple[str, ...]:
        """What a browser may call this server; another name in ``Host`` is a foreign page that was led here."""
        machine = LOOPBACK, "localhost"
        bare = machine if self.server_port == HTTP_PORT else ()  # browsers leave that port out
        return *bare, *(f"{name}:{self.server_port}" for name in machine)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """Answers what carries the token and this machine's own name."""
        if self.headers.get("Host", "") not in self.server.names:
            self._send(HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", "This server answers to its own name alone.")
            return
        token, _, rest = self.path.partition("?")[0].lstrip("/").partition("/")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._send(HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", "Open the address that agentopd printed.")
            return
        try:
            found = self.server.answer(rest)
        except RecordError as error:
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", str(error))
            return
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "There is nothing here.")
        else:
            self._send(HTTPStatus.OK, *found)

    def _send(self, status: HTTPStatus, kind: str, content: str) -> None:
        body = content.encode("utf-8", errors="backslashreplace")
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: what is read is nobody's business."""


def server(
    sources: Sequence[Source], port: int = 0, say: Callable[[int], object] = lambda count: None
) -> tuple[ThreadingHTTPServer, str]:
    """A server that is not yet at work, and the address to open. It has its port before it reads the records, which may take long.

    Args:
        sources: Whose records.
        port: Where it listens; 0 is any that is free.
        say: Is told how many trajectories have been read, now and then.

    Raises:
        OSError: The port is taken.
        OverflowError: There is no such port.
    """
    made = _Server(secrets.token_urlsafe(16), port)
    try:
        made.site = Site(sources, say)
    except BaseException:
        made.server_close()
        raise
    return made, f"http://{LOOPBACK}:{made.server_port}/{made.token}/"
