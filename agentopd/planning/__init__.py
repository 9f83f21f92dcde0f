"""What a step will take of memory and time, counted before anything is loaded: from shapes, limits and a device's rates."""

from agentopd.planning.hardware import Hardware, hardware
from agentopd.planning.whole import Plan, plan

__all__ = ["Hardware", "Plan", "hardware", "plan"]
