"""Runs held against each other: paired differences over tasks and seeds, and what they cost."""

from agentopd.comparing.whole import Comparison, compare

__all__ = ["Comparison", "compare"]
