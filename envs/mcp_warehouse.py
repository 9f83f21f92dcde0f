"""A small MCP server to try ``agentopd/Mcp-v0`` with, and tasks for it. It keeps nothing: what it answers follows from what it is asked.

It speaks by its standard streams: ``python -m agentopd.envs.mcp_warehouse``.
"""

import random
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled

from agentopd.envs.checkout import GOODS

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError as error:
    raise DependencyNotInstalled("MCP servers need the package mcp: pip install 'agentopd[mcp]'") from error

server = MCPServer("warehouse")


@server.tool()
def find(warehouse: int, item: str) -> str:
    """Find the shelf of an item."""
    shelves = _shelves(warehouse)
    if item not in shelves:
        raise ToolError(f"no {item} in warehouse {warehouse}")
    return f"shelf {shelves[item][0]}"


@server.tool()
def count(warehouse: int, shelf: int) -> str:
    """Count what lies on a shelf."""
    for item, (number, pieces) in _shelves(warehouse).items():
        if number == shelf:
            return f"{pieces} {item}"
    raise ToolError(f"no shelf {shelf} in warehouse {warehouse}")


def task(draw: np.random.Generator) -> dict[str, Any]:
    """A question, its answer and the calls that find it."""
    warehouse, item = int(draw.integers(1000, 10_000)), GOODS[int(draw.integers(len(GOODS)))]
    shelf, pieces = _shelves(warehouse)[item]
    calls = [
        {"name": "find", "arguments": {"warehouse": warehouse, "item": item}},
        {"name": "count", "arguments": {"warehouse": warehouse, "shelf": shelf}},
    ]
    return {"question": f"How many {item} are in warehouse {warehouse}?", "answer": str(pieces), "calls": calls}


def _shelves(warehouse: int) -> dict[str, tuple[int, int]]:
    """Shelf and number of pieces of each item."""
    drawn = random.Random(warehouse)
    shelves = drawn.sample(range(10, 100), len(GOODS))
    return {item: (shelf, drawn.randrange(100, 1000)) for item, shelf in zip(GOODS, shelves, strict=True)}


if __name__ == "__main__":
    server.run()
