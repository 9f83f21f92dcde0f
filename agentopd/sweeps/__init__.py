"""Many runs of one configuration: arms that differ in what was asked, each with the same seeds and the same budget."""

from agentopd.sweeps.search import objective
from agentopd.sweeps.whole import sweep

__all__ = ["objective", "sweep"]
