"""Laws of student size, episodes and teacher tokens, fitted to runs."""

from agentopd.scaling.whole import Scaling, scaling

__all__ = ["Scaling", "scaling"]
