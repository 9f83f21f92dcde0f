"""The doctor: looks at a setup before it burns hours. Every check says what was found and, where that is bad, what to do."""

from agentopd.doctor.check import Check
from agentopd.doctor.whole import examine

__all__ = ["Check", "examine"]
