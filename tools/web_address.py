"""Addresses of pages: read strictly, compared exactly, and resolved to numbers that may be connected to."""

import ipaddress
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import unquote

from agentopd.errors import ToolError
from agentopd.tooling import brief

MAX_URL = 2000
PORTS = {"http": 80, "https": 443}
Number = ipaddress.IPv4Address | ipaddress.IPv6Address

_URL = re.compile(
    r"(https?)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?(/[^?#]*)?(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE
)
_PLAIN = re.compile(r"[!-~]+")
"""Printable ASCII without spaces: no ends of line, no letters that look like others."""
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ENCODED = re.compile(r"%(?![0-9a-fA-F]{2})|%2f|%5c|%00", re.IGNORECASE)
_EMBEDDING = ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48")
"""Networks of IPv6 numbers that lead to IPv4 ones."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a page is."""

    scheme: str
    host: str
    """In small letters; a number in its usual form, of IPv6 without brackets."""
    port: int
    path: str
    query: str

    @property
    def authority(self) -> str:
        """Host and port, as an address and a request write them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}{f'?{self.query}' if self.query else ''}"

    def at(self, number: Number) -> str:
        """The same with a number in place of the name."""
        host = f"[{number}]" if number.version == 6 else str(number)
        return f"{self.scheme}://{host}:{self.port}{self.path}{f'?{self.query}' if self.query else ''}"

    def covers(self, other: "Address") -> bool:
        """Whether ``other`` is the same place, or below it."""
        same = (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)
        return same and (other.path == self.path or other.path.startswith(self.path.rstrip("/") + "/"))


def parsed(url: str) -> Address:
    """Reads an address. What could be read in two ways is refused.

    Raises:
        ToolError: It is no such address; the message says why.
    """
    if len(url) > MAX_URL:
        raise ToolError(f"the address is longer than {MAX_URL} characters")
    shown = brief(repr(url), 100)
    if not _PLAIN.fullmatch(url) or "\\" in url:
        raise ToolError(
            f"{shown}: an address holds plain characters only, no spaces and no backslashes; write others as %C3%A9"
        )
    match = _URL.fullmatch(url)
    if match is None:
        raise ToolError(
            f"{shown} is no address such as https://example.org/page, without a name or password before the host"
        )
    scheme, host, port, path, query = match.groups()
    scheme = scheme.lower()
    number = int(port) if port else PORTS[scheme]
    if not 0 < number < 2**16:
        raise ToolError(f"{shown}: there is no port {number}")
    return Address(scheme, _host(host.lower(), shown), number, _path(path or "/", shown), query or "")


def addresses(address: Address, allowed: Callable[[Address], bool]) -> Iterator[Number]:
    """The numbers that a host has, of which none is of a private network.

    Args:
        address: Whose host is looked up.
        allowed: Says of the same address with a private number in place of the name whether it may be used.

    Raises:
        ToolError: It has none, or only private ones.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ToolError(f"{address.host} is not known") from error
    numbers = dict.fromkeys(ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found)
    kept = [number for number in numbers if is_public(number) or allowed(replace(address, host=str(number)))]
    if not kept:
        raise ToolError(f"{address.host} is in a private network, which is not allowed")
    yield from kept


def is_public(number: Number) -> bool:
    """Whether a number is of the open network, whatever form it is written in."""
    if isinstance(number, ipaddress.IPv6Address):
        if any(number in network for network in _EMBEDDING):
            return False
        inner = number.ipv4_mapped or number.sixtofour or (number.teredo and number.teredo[1])
        if inner or int(number) < 2**32 or number.is_site_local:
            return False  # forms that nobody needs: where they lead is decided elsewhere
    return number.is_global and not (number.is_multicast or number.is_reserved or number.is_unspecified)


def _host(host: str, shown: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError as error:
            raise ToolError(f"{shown}: {host} is no IPv6 address") from error
    labels = host.split(".")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):  # what a resolver takes for a number, in one of many spellings
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            raise ToolError(f"{shown}: write a numeric address as four numbers, such as 192.0.2.1") from error
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise ToolError(f"{shown}: {host} is no name of a host")
    return host


def _path(path: str, shown: str) -> str:
    """Refuses what leads up, in any spelling that some server may read so."""
    if _ENCODED.search(path):
        raise ToolError(f"{shown}: a path holds no encoded slashes, and each % begins two digits")
    plain = path
    for _ in range(4):
        plain = unquote(plain)
        if any(segment.partition(";")[0] in (".", "..") for segment in plain.replace("\\", "/").split("/")):
            raise ToolError(f"{shown}: a path holds no . and .. of its own; write the path that is meant")
    return path
