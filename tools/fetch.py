"""Pages of the network, for models: only from where one says, only to read, only text."""

import hashlib
import json
import os
import ssl
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from threading import Thread
from urllib.parse import urljoin

import httpx2

from agentopd.errors import ConfigError, EnvError, ToolError, describe, first_line
from agentopd.tooling import brief, cut, settle, tool
from agentopd.tools.web_address import Address, addresses, parsed
from agentopd.tools.web_text import readable

REDIRECTS = 3
HEADERS = {"Accept": "text/*, application/json", "Accept-Encoding": "identity", "User-Agent": "agentopd"}


class Fetch:
    """The tool ``fetch``: ``ToolSet.of(Fetch(["https://docs.python.org/3/"]))``. Nothing is allowed that is not listed.

    It connects to the address that a name was resolved to when it was checked, so that the name cannot change in between, and never to
    one of a private network, unless that number itself is listed with the same port and path. Proxies and credentials of the environment are not used, cookies not
    kept, bodies not decompressed. What the network answers may differ from day to day: an environment with this tool repeats itself
    only out of a ``cache``, and there only as far as pages were found: what failed is asked again.

    Args:
        allow: Addresses, each of a scheme, a host, where it is not the usual one a port, and where only a part is meant the beginning of
            a path: ``http://127.0.0.1:8000/data``. A name stands for itself alone, not for those below it.
        seconds: Of one call, redirects included.
        max_bytes: That are read of a page; that there are more is said at the end of its text.
        shown: Characters of its text that are told; the rest is cut off, which is said.
        cache: A directory in which pages are kept; what stands there is not asked for again.
        authorities: A PEM file of those whose certificates are trusted, in place of the usual ones.

    Raises:
        ConfigError: An address that is allowed is none, a limit is not above 0, or ``authorities`` holds no certificate.
    """

    def __init__(
        self,
        allow: Sequence[str] = (),
        *,
        seconds: float = 10.0,
        max_bytes: int = 500_000,
        shown: int = 10_000,
        cache: str | Path | None = None,
        authorities: str | Path | None = None,
    ):
        for name, limit in {"seconds": seconds, "max_bytes": max_bytes, "shown": shown}.items():
            if not limit > 0:
                raise ConfigError(f"{name}={limit} must be above 0")
        if isinstance(allow, str):
            raise ConfigError(f"allow={allow!r}: give a list, such as [{allow}]")
        try:
            self.allow = tuple(map(parsed, allow))
        except ToolError as error:
            raise ConfigError(f"allow={list(allow)}: {error}") from error
        for each in self.allow:
            if each.query:
                raise ConfigError(f"allow={list(allow)}: {each} has a query; give the beginning of a path at most")
        self.seconds, self.max_bytes, self.shown = seconds, max_bytes, shown
        self.cache = None if cache is None else Path(cache)
        self._authorities = None if authorities is None else str(authorities)
        try:
            _trust(self._authorities)
        except OSError as error:
            raise ConfigError(f"authorities={str(authorities)!r}: {error}; give a PEM file of certificates") from error

    @tool(max_characters=None)
    def fetch(self, url: str) -> str:
        """Read a page of the web.

        Args:
            url: Its address.

        Raises:
            EnvError: The cache cannot be read or written.
        """
        address = self._allowed(url)
        if (known := self._known(address)) is not None:
            return cut(known, self.shown)
        client = httpx2.Client(
            headers=HEADERS,
            trust_env=False,
            follow_redirects=False,
            timeout=self.seconds,
            verify=_trust(self._authorities),
        )
        future: Future[str] = Future()
        Thread(target=settle, args=(future, lambda: self._followed(client, address)), daemon=True).start()
        try:  # the whole in one limit: neither looking up a name nor a server that sends a byte at a time has one
            if not wait([future], timeout=self.seconds).done:
                raise ToolError(f"no answer within {self.seconds:g} s", kind="tool_timeout")
            text = future.result()
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            raise ToolError(f"{address.host} cannot be read: {brief(describe(error), 120)}") from error
        finally:
            client.close()
        self._keep(address, text)
        return cut(text, self.shown)

    def _allowed(self, url: str) -> Address:
        address = parsed(url)
        if not self._is_allowed(address):
            there = ", ".join(map(str, self.allow)) or "nothing"
            raise ToolError(f"{brief(url, 100)} is not allowed; allowed is: {brief(there, 300)}")
        return address

    def _is_allowed(self, address: Address) -> bool:
        return any(each.covers(address) for each in self.allow)

    def _followed(self, client: httpx2.Client, address: Address) -> str:
        for _ in range(REDIRECTS + 1):
            found = self._page(client, address)
            if isinstance(found, str):
                return found
            address = found
        raise ToolError(f"more than {REDIRECTS} redirects")

    def _page(self, client: httpx2.Client, address: Address) -> str | Address:
        """The text of a page, or where it is instead."""
        with closing(self._asked(client, address)) as response:
            status, kind = response.status_code, response.headers.get("content-type", "")
            if status in (301, 302, 303, 307, 308) and (there := response.headers.get("location")):
                return self._allowed(urljoin(str(address), there))
            if status != 200:
                raise ToolError(f"{address.host} answered {status}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ToolError("the page is compressed, which was not asked for")
            body = b""
            for part in response.iter_raw():
                body += part
                if len(body) > self.max_bytes:
                    break
        text = readable(body[: self.max_bytes], kind)
        return f"{text}\n(the page goes on, {self.max_bytes} bytes were read)" if len(body) > self.max_bytes else text

    def _asked(self, client: httpx2.Client, address: Address) -> httpx2.Response:
        """The beginning of an answer, from the first address of the host that can be reached."""
        failed: Exception | None = None
        for number in addresses(address, self._is_allowed):
            request = client.build_request("GET", address.at(number), headers={"Host": address.authority})
            request.extensions["sni_hostname"] = address.host
            try:
                return client.send(request, stream=True)
            except httpx2.ConnectError as error:
                failed = error
            finally:
                client.cookies.clear()
        raise ToolError(f"{address.host} cannot be reached: {brief(describe(failed or OSError('no address')), 120)}")

    def _known(self, address: Address) -> str | None:
        if self.cache is None:
            return None
        file = self._file(address)
        with _of_cache(file, "take that file away"):
            return str(json.loads(file.read_text("utf-8"))["text"]) if file.exists() else None

    def _keep(self, address: Address, text: str) -> None:
        if self.cache is None:
            return
        told = json.dumps(
            {"url": str(address), "text": text, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        )
        with _of_cache(self.cache, "give a directory that can be written"):
            self.cache.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=self.cache, delete=False) as file:
                file.write(told)
            os.replace(file.name, self._file(address))  # whole or not at all, whoever else writes

    def _file(self, address: Address) -> Path:
        assert self.cache is not None
        limits = f"{self.max_bytes} {address}"
        return self.cache / f"{hashlib.sha256(limits.encode()).hexdigest()}.json"


@contextmanager
def _of_cache(path: Path, remedy: str) -> Iterator[None]:
    """What goes wrong with the cache is no mistake of the model's."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvError(f"fetch: cache={str(path)!r}: {first_line(error)}; {remedy}") from error


@cache
def _trust(authorities: str | None) -> ssl.SSLContext:
    """Who may vouch for a server. Made once: reading the usual certificates takes longer than most pages."""
    if authorities is None:
        return httpx2.create_ssl_context(trust_env=False)
    return ssl.create_default_context(cafile=authorities)
