"""Servers that answer over HTTP: asked many things at once, waited for while they are away."""

from agentopd.serving.answers import Answers
from agentopd.serving.chat import Answer, ChatServer, Token
from agentopd.serving.endpoint import Endpoint
from agentopd.serving.ledger import Cap, Ledger, Prices, Spent, SpentError
from agentopd.serving.scorer import WHOLE, Scorer, TopK
from agentopd.serving.threads import Threads
from agentopd.serving.waiting import Patience, RefusedError

__all__ = [
    "WHOLE",
    "Answer",
    "Answers",
    "Cap",
    "ChatServer",
    "Endpoint",
    "Ledger",
    "Patience",
    "Prices",
    "RefusedError",
    "Scorer",
    "Spent",
    "SpentError",
    "Threads",
    "Token",
    "TopK",
]
