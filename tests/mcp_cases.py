"""Two MCP servers for tests: one by the official API, which misbehaves when asked to, and one by hand, which starts in no time."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agentopd.tools.mcp import Mcp

OFFICIAL = ["-m", "mcp_official"]
PLACE = os.path.dirname(__file__)

BY_HAND = """
import json, os, sys
notes = {}
tools = [
    {"name": "write", "description": "Write a note.", "inputSchema": {"type": "object", "required": ["name", "text"],
     "properties": {"name": {"type": "string"}, "text": {"type": "string"}}}},
    {"name": "read", "description": "Read all notes.", "inputSchema": {"type": "object"}},
    {"name": "leave", "description": "End the server.", "inputSchema": {"type": "object"}},
]
for line in sys.stdin:
    asked = json.loads(line)
    method, params = asked.get("method"), asked.get("params", {})
    if "id" not in asked:
        continue
    reply = {"jsonrpc": "2.0", "id": asked["id"]}
    if method == "initialize":
        reply["result"] = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "n", "version": "1"}}
    elif method == "tools/list":
        reply["result"] = {"tools": tools}
    elif method == "tools/call" and params["name"] == "leave":
        print("notes: no disk", file=sys.stderr, flush=True)
        os._exit(3)
    elif method == "tools/call":
        given = params.get("arguments", {})
        if params["name"] == "write":
            notes[given["name"]] = given["text"]
        reply["result"] = {"content": [{"type": "text", "text": json.dumps(notes)}]}
    else:
        reply["error"] = {"code": -32601, "message": "Method not found"}
    print(json.dumps(reply), flush=True)
"""


def by_hand(**settings: Any) -> dict[str, Any]:
    """The settings of a server that keeps notes, in a process that starts within a tenth of a second."""
    return {"command": sys.executable, "args": ["-S", "-E", "-c", BY_HAND], **settings}


def official(**settings: Any) -> Mcp:
    """The server of ``mcp_official.py``, by its standard streams."""
    given: dict[str, Any] = {
        "command": sys.executable,
        "args": OFFICIAL,
        "env": {"PYTHONPATH": PLACE},
        "start_limit": 120.0,
    }
    return Mcp("notes", **(given | settings))


@contextmanager
def over_http(key: str = "") -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The address of the official server over streamable HTTP on the loopback, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *OFFICIAL, str(port)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": PLACE, "KEY": key}, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp", process
    finally:
        process.kill()
        process.wait()


def pids(marker: str) -> set[int]:
    """The processes whose command line holds ``marker``."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if marker.encode() in file.read():
                    found.add(int(name))
        except OSError:
            continue
    return found


def children() -> set[int]:
    """The servers by hand of this process that live."""
    mine = set()
    for pid in pids("notes: no disk"):
        with open(f"/proc/{pid}/stat") as file:
            mine |= {pid} if int(file.read().rsplit(")", 1)[1].split()[1]) == os.getpid() else set()
    return mine
