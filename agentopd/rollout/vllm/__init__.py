"""vLLM as the student's engine.

``server.py`` is what is asked of one, ``http_server.py`` asks it over HTTP, ``started.py`` and ``joined.py`` begin that, ``in_process.py`` is
one in this process, ``weights.py`` gives what it loads, ``engine.py`` acts.
"""

from agentopd.rollout.vllm.engine import VllmPolicy

__all__ = ["VllmPolicy"]
