"""Parts of a run in actors on the machines of a Ray cluster: who writes the student's turns, and teachers.

Nothing here imports Ray before a configuration asks for it.
"""

from agentopd.cluster.pool import close

__all__ = ["close"]
