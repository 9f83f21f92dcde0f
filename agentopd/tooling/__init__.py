"""Tools that models call: the text of a call, what a tool takes and answers, and sets of tools."""

from agentopd.tooling.action import ParsedAction, brief, call, parse_action, render_action
from agentopd.tooling.cutting import cut
from agentopd.tooling.loop import settle
from agentopd.tooling.toolset import CRASH, Tool, ToolSet, tool, tool_names

__all__ = [
    "CRASH",
    "ParsedAction",
    "Tool",
    "ToolSet",
    "brief",
    "call",
    "cut",
    "parse_action",
    "render_action",
    "settle",
    "tool",
    "tool_names",
]
