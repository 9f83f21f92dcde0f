"""vLLM as the student's engine: ``server.py`` starts it and speaks with it, ``weights.py`` writes what it loads, ``engine.py`` acts."""

from agentopd.rollout.vllm.engine import VllmPolicy

__all__ = ["VllmPolicy"]
