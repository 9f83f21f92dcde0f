"""Between messages and tokens."""

from agentopd.chat.codec import Action, Chat, Extension

__all__ = ["Action", "Chat", "Extension"]
