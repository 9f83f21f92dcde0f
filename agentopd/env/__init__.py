"""Environments, text in and text out: to write one, to find one, to give any Gymnasium environment a text face."""

from agentopd.env.exchange import TextSpace
from agentopd.env.text import TextEnv, expert_action, has_expert, make, system_prompt, tools_of

__all__ = ["TextEnv", "TextSpace", "expert_action", "has_expert", "make", "system_prompt", "tools_of"]
