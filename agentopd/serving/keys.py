"""Addresses and keys of servers: an address holds no key, a key stands in the environment, and no message repeats it."""

import json
import os
import re
from urllib.parse import quote

import httpx2

from agentopd.errors import ConfigError

_SECRET = re.compile(r"^\s*(\w+:)?/*[^/]*@|[?#]")
"""What of an address may hold a key: a name before the host, however many slashes it has, or a query or fragment."""
_NAME = re.compile("[A-Z_][A-Z0-9_]*")
HIDDEN = "***"
"""What stands in a message for the key."""


def require_address(url: str) -> None:
    """Refuses what is no address of a server, and one that holds a key.

    Raises:
        ConfigError: It is none, or holds more than an address.
    """
    if _SECRET.search(url) or ("@" in url and not _is_address(url)):  # a slash in a password ends the host
        raise ConfigError(
            "url=...: an address with a name or a key in it would be written down; give the key by key_env, and the address without what "
            "stands before an @ or from a ? or # on"
        )
    if not url.startswith(("http://", "https://")) or not _is_address(url):
        raise ConfigError(f"url={url!r}: give an address such as http://127.0.0.1:8000")


def key_of(key_env: str, setting: str = "key_env") -> str:
    """The key in the environment variable ``key_env``; ``setting`` is what names the variable.

    Raises:
        ConfigError: The variable is not set, or holds what is no key.
    """
    key = os.environ.get(key_env)
    if not key:
        if not _NAME.fullmatch(key_env):  # which may be the key itself
            raise ConfigError(
                f"{setting}=...: this is no environment variable that is set; set one to the server's key, and give its name, not the key"
            )
        raise ConfigError(f"{setting}={key_env}: this environment variable is not set; set it to the server's key")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"{setting}={key_env}: this environment variable holds more than a key, such as a space or the end of a line; set it to "
            "the key alone"
        )
    return key


def hidden(text: str, key: str | None) -> str:
    """``text`` without the key, which some servers repeat: as it is, and as JSON and addresses write it."""
    if key is None:
        return text
    escaped = json.dumps(key)[1:-1]
    for written in (key, escaped, escaped.replace("/", "\\/"), quote(key, safe="")):
        text = text.replace(written, HIDDEN)
    return text


def _is_address(url: str) -> bool:
    try:
        return bool(httpx2.URL(url).host)
    except httpx2.InvalidURL:
        return False
