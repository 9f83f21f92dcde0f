"""Between messages and tokens."""

from agentopd.chat.codec import Chat, PastThinking
from agentopd.chat.hint import Hint
from agentopd.chat.turn import Action, Extension

__all__ = ["Action", "Chat", "Extension", "Hint", "PastThinking"]
