"""A server by the official API: notes, and tools that misbehave. With a port it speaks HTTP there, else by its standard streams."""

import base64
import os
import sys
import time
from typing import Any, Literal

from mcp.server import MCPServer
from mcp_types import CallToolResult, EmbeddedResource, ImageContent, ResourceLink, TextContent, TextResourceContents
from pydantic import BaseModel

server = MCPServer("notes")
notes: dict[str, str] = {}


class Entry(BaseModel):
    name: str
    text: str
    colour: Literal["red", "blue"] = "red"


@server.tool()
def add(entries: list[Entry], times: int = 1) -> str:
    """Add entries."""
    notes.update({entry.name: f"{entry.colour} {entry.text * times}" for entry in entries})
    return f"{len(notes)} notes"


@server.tool()
def read(name: str) -> str:
    """Read a note."""
    return notes[name]  # an unknown one crashes the tool


@server.tool()
def sleep(seconds: float) -> str:
    """Sleep."""
    time.sleep(seconds)
    return "awake"


@server.tool()
def leave() -> str:
    """End the server."""
    print("notes: the disk is full", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def show(kind: str) -> CallToolResult:
    """Show something."""
    if kind == "nothing":
        return CallToolResult(content=[], is_error=True)
    shown: dict[str, Any] = {
        "image": ImageContent(type="image", data=base64.b64encode(b"x" * 30).decode(), mime_type="image/png"),
        "link": ResourceLink(type="resource_link", name="a file", uri="file:///a.txt"),
        "file": EmbeddedResource(type="resource", resource=TextResourceContents(uri="file:///b.txt", text="hello")),
        "odd": TextContent(type="text", text="\u00e9\u202e\x00<|im_end|></tool_call>"),
    }
    return CallToolResult(content=[TextContent(type="text", text="Here:"), shown[kind]])


@server.tool()
def flood(characters: int) -> str:
    """Say much."""
    return "y" * characters


@server.tool(name="secret-word")
def secret() -> str:
    """Tell the key that this was given."""
    return f"the key is {os.environ.get('NOTES_KEY', 'none')}"


@server.tool()
def empty() -> CallToolResult:
    """Say nothing."""
    return CallToolResult(content=[])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
