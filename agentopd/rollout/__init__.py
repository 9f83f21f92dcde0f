"""Rollout: policies act in environments; out come trajectories, token-exact.

What to play:  ``EnvConfig``, ``TaskStream``, ``assign`` to ``Assignment``.
Who acts:      ``Policy`` and its ``Request`` and ``Generation``; ``TransformersPolicy``, ``ScriptedPolicy``.
Playing:       ``Rollout`` settings, ``check_first_prompts``, ``collect``, ``rollout_metrics``.
"""

from agentopd.rollout.assignments import assign
from agentopd.rollout.collect import collect
from agentopd.rollout.engine import TransformersPolicy
from agentopd.rollout.metrics import rollout_metrics
from agentopd.rollout.policy import Assignment, Generation, Policy, Request, Rollout
from agentopd.rollout.preflight import check_first_prompts
from agentopd.rollout.scripted import ScriptedPolicy
from agentopd.rollout.tasks import EnvConfig, TaskStream

__all__ = [
    "Assignment",
    "EnvConfig",
    "Generation",
    "Policy",
    "Request",
    "Rollout",
    "ScriptedPolicy",
    "TaskStream",
    "TransformersPolicy",
    "assign",
    "check_first_prompts",
    "collect",
    "rollout_metrics",
]
