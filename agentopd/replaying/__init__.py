"""Recorded episodes, played again: each environment is rebuilt, given the recorded actions, and what comes back is compared.

Nothing here imports torch, so that worker processes need not.
"""

from agentopd.replaying.verdicts import Replay, Verdict
from agentopd.replaying.whole import replay

__all__ = ["Replay", "Verdict", "replay"]
