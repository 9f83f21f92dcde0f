"""A small MCP server to try ``agentopd/Mcp-v0`` with; :mod:`agentopd.envs.warehouse` has tasks for it. It keeps nothing: what it answers follows from what it is asked.

It speaks by its standard streams: ``python -m agentopd.envs.mcp_warehouse``.
"""

from gymnasium.error import DependencyNotInstalled

from agentopd.envs.warehouse import shelves_of

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError as error:
    raise DependencyNotInstalled("MCP servers need the package mcp: pip install 'agentopd[mcp]'") from error

server = MCPServer("warehouse")


@server.tool()
def find(warehouse: int, item: str) -> str:
    """Find the shelf of an item."""
    shelves = shelves_of(warehouse)
    if item not in shelves:
        raise ToolError(f"no {item} in warehouse {warehouse}")
    return f"shelf {shelves[item][0]}"


@server.tool()
def count(warehouse: int, shelf: int) -> str:
    """Count what lies on a shelf."""
    for item, (number, pieces) in shelves_of(warehouse).items():
        if number == shelf:
            return f"{pieces} {item}"
    raise ToolError(f"no shelf {shelf} in warehouse {warehouse}")


if __name__ == "__main__":
    server.run()
