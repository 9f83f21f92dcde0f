"""vLLM as the student's engine.

``server.py`` speaks with it, ``started.py`` and ``joined.py`` begin that, ``weights.py`` writes what it loads, ``engine.py`` acts.
"""

from agentopd.rollout.vllm.engine import VllmPolicy

__all__ = ["VllmPolicy"]
