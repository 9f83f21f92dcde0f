"""Servers that answer over HTTP: asked many things at once, waited for while they are away."""

from agentopd.serving.endpoint import Endpoint, Patience
from agentopd.serving.scorer import WHOLE, Scorer, TopK

__all__ = ["WHOLE", "Endpoint", "Patience", "Scorer", "TopK"]
