"""Between messages and tokens."""

from agentopd.chat.codec import Action, Chat, Extension, PastThinking
from agentopd.chat.hint import Hint

__all__ = ["Action", "Chat", "Extension", "Hint", "PastThinking"]
