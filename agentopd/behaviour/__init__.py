"""What a student does, beside how well it is taught."""

from agentopd.behaviour.whole import Behaviour, behaviour

__all__ = ["Behaviour", "behaviour"]
