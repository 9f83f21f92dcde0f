"""The tools of an MCP server, for models, by the official client (https://modelcontextprotocol.io)."""

import json
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from agentopd.errors import ConfigError, EnvError, ToolError
from agentopd.serving.keys import key_of, require_address
from agentopd.settings.base import Settings
from agentopd.settings.problems import explain, nearest
from agentopd.tooling import Tool, ToolSet, brief, cut
from agentopd.tools.mcp_link import Address, Link, types

_shared: dict[str, Link] = {}
_lock = threading.Lock()


class Server(Settings):
    """An MCP server, and what is taken of it. Exactly one of ``module``, ``command`` and ``url`` says where it is."""

    module: str | None = None
    """A Python module, run with ``python -m`` by the interpreter that runs this; it speaks by its standard streams."""
    command: str | None = None
    """A program that speaks by its standard streams."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    """Environment variables of the program, beside PATH, HOME and the like. What is written here is no secret."""
    pass_env: tuple[str, ...] = ()
    """Names of environment variables that the program is given as they are here: keys."""
    folder: str | None = None
    """Where the program runs."""
    url: str | None = None
    """The address of a server that speaks streamable HTTP, such as http://127.0.0.1:8000/mcp."""
    headers: Mapping[str, str] = {}
    """Of each request. What is written here is no secret."""
    header_env: Mapping[str, str] = {}
    """Headers by the environment variables that hold them: keys."""
    key_env: str | None = None
    """The environment variable of the key that is sent as a bearer token."""
    tools: tuple[str, ...] | None = None
    """Names of the tools that are taken, in this order. Default: all."""
    prefix: str = ""
    """Put before the names of its tools, where two servers have one of the same name."""
    fresh: bool = True
    """Whether each episode has a process, or a connection, of its own. Otherwise all share one, and what they leave in it."""
    time_limit: float = Field(default=10.0, gt=0)
    """Seconds of a call."""
    start_limit: float = Field(default=30.0, gt=0)
    """Seconds until it has started and told its tools."""
    shown: int = Field(default=10_000, ge=1)
    """Characters of an answer; the rest is cut off, which is said."""

    def address(self) -> Address:
        """Where it is, keys included.

        Raises:
            ConfigError: That is not said, or not in one way, or a key is not there.
        """
        given = [name for name in ("module", "command", "url") if getattr(self, name)]
        if len(given) != 1:
            raise ConfigError(
                f"{' and '.join(given) or 'nothing'} is given: give one of module, command and url, which says where the server is"
            )
        remote, local = ("headers", "header_env", "key_env"), ("args", "env", "pass_env", "folder")
        for name in local if self.url else remote:
            if getattr(self, name):
                raise ConfigError(f"{name}: not with {given[0]}; it is for {'a program' if self.url else 'a url'}")
        if self.url:
            require_address(self.url)
            keys = {name: key_of(variable, f"header_env.{name}") for name, variable in self.header_env.items()}
            bearer = {"Authorization": f"Bearer {key_of(self.key_env)}"} if self.key_env else {}
            secrets = (*keys.values(), *(value.removeprefix("Bearer ") for value in bearer.values()))
            return Address(url=self.url, headers={**self.headers, **keys, **bearer}, keys=secrets)
        program, *rest = (self.command or "").split() or [""]
        if rest and not shutil.which(self.command or ""):
            raise ConfigError(
                f"command={self.command!r}: that is no program; give its arguments apart, command: {program}, args: [{', '.join(rest)}]"
            )
        passed = {name: key_of(name, "pass_env") for name in self.pass_env}
        command = (sys.executable, "-m", self.module) if self.module else (self.command or "",)
        env, secrets = {**self.env, **passed}, tuple(passed.values())
        return Address(command=(*command, *self.args), env=env, folder=self.folder, keys=secrets)


class Mcp:
    """The tools of one MCP server: ``Mcp(module="agentopd.envs.mcp_warehouse").tools``.

    Their schemas are the server's own. An answer's text is told as it is, and so is a file of text that stands in it; an image or a
    sound by its kind and size, any other file by its address. What the server calls an error is a ``ToolError``. A server that is gone is an ``EnvError``, and is started anew by the next :meth:`begin`.

    What the server asks of a client (to sample from a model, to ask the user) is refused.

    Args:
        name: What the server is called in messages.
        **settings: See :class:`Server`.

    Raises:
        ConfigError: The settings are wrong, or a key is not in the environment.
        DependencyNotInstalled: The package ``mcp`` is missing.
    """

    def __init__(self, name: str = "server", **settings: Any) -> None:
        try:
            self.server = Server.model_validate(settings)
            self._address = self.server.address()
        except ValidationError as error:
            raise ConfigError(f"{name}: {explain(error, Server)}") from error
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
        self.name = name
        self._link: Link | None = None
        self._used = False
        self._finalizer: weakref.finalize[[], Mcp] | None = None
        self._tools: ToolSet | None = None

    @property
    def tools(self) -> ToolSet:
        """The tools that are taken; the server is started for them, once.

        Raises:
            ConfigError: It has not all of those that are asked for, or gives one no proper name or schema.
            EnvError: It does not start.
        """
        if self._tools is None:
            there = {tool.name: tool for tool in self._linked().opened(self.server.start_limit)}
            for name in self.server.tools or ():
                if name not in there:
                    raise ConfigError(
                        f"{self.name}.tools: the server has no tool {name!r}{nearest(name, there)}; it has: {', '.join(there) or 'none'}"
                    )
            self._tools = ToolSet(self._each([there[name] for name in self.server.tools or there]))
        return self._tools

    def begin(self) -> None:
        """A new episode: where the server is ``fresh``, and was used or is gone, another one is started."""
        if self.server.fresh and self._used:
            self.close()
        self._linked().opened(self.server.start_limit)

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Calls a tool by the name that the server gives it; see :meth:`agentopd.tools.mcp_link.Link.call` for what it raises."""
        self._used = True
        link = self._link or self._linked()
        link.opened(self.server.start_limit)
        result = link.call(name, arguments, self.server.time_limit, self.server.prefix)
        text = cut(self._address.hidden(told(result)), self.server.shown)
        if result.is_error:
            raise ToolError(text)
        return text

    def close(self) -> None:
        """Ends the server, and waits for that, unless it is shared: then it lives on as long as this process."""
        if self._finalizer is not None and self._link is not None:
            self._finalizer.detach()
            self._link.close()
        self._link, self._used, self._finalizer = None, False, None

    def _linked(self) -> Link:
        """The connection, or a new one where there is none or it is gone."""
        who = f"MCP server {self.name!r}"
        if self._link is not None and self._link.alive:
            return self._link
        if self.server.fresh:
            self.close()
            self._link = Link(who, self._address)
            self._finalizer = weakref.finalize(self, self._link.stop)
            return self._link
        with _lock:
            key = self.server.model_dump_json()
            link = _shared.get(key)
            if link is None or not link.alive:
                link = _shared[key] = Link(who, self._address)
            self._link = link
            return link

    def _each(self, given: Sequence[types.Tool]) -> Iterator[Tool]:
        begin = time.monotonic()
        for count, tool in enumerate(given):
            if time.monotonic() - begin > self.server.start_limit:
                raise EnvError(
                    f"{self.name}: only {count} of its {len(given)} tools could be looked at within start_limit="
                    f"{self.server.start_limit:g} seconds; name those you need in {self.name}.tools, or raise it"
                )
            yield self._tool(tool)

    def _tool(self, given: types.Tool) -> Tool:
        name = given.name

        def call(**arguments: Any) -> str:
            return self.call(name, arguments)

        description = given.description or given.title or name
        try:
            return Tool.described(self.server.prefix + name, description, given.input_schema, call, max_characters=None)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}; leave it out: name the others in {self.name}.tools") from error


def close_shared() -> None:
    """Ends all shared servers of this process, and waits for that; who goes on with one starts it anew."""
    with _lock:
        links = list(_shared.values())
        _shared.clear()
    for link in links:
        link.stop()
    for link in links:
        link.close()


def told(result: types.CallToolResult) -> str:
    """The text of an answer: its parts, one a line; the structured one as JSON where it stands alone."""
    parts = [_part(block) for block in result.content]
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts) or ("it failed and did not say why" if result.is_error else "ok")


def _part(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent():
            return block.text
        case types.ImageContent() | types.AudioContent():
            return f"[{block.type}: {block.mime_type}, {len(block.data) * 3 // 4} bytes]"
        case types.ResourceLink():
            return f"[resource: {brief(block.name, 80)}, {brief(str(block.uri), 200)}]"
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return f"[resource: {brief(str(resource.uri), 200)}]\n{resource.text}"
        case _:
            return f"[resource: {brief(str(block.resource.uri), 200)}]"
