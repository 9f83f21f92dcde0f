"""Shipped environments. Importing this package registers them with Gymnasium; nothing else is loaded."""

from collections.abc import Mapping
from typing import Any

import gymnasium

ENVS: Mapping[str, Mapping[str, Any]] = {
    "agentopd/Bfcl-v0": {"entry_point": "agentopd.envs.bfcl:Bfcl", "max_episode_steps": 200},
    "agentopd/Calculator-v0": {"entry_point": "agentopd.envs.calculator:Calculator", "max_episode_steps": 24},
    "agentopd/Checkout-v0": {"entry_point": "agentopd.envs.checkout:Checkout", "max_episode_steps": 20},
    "agentopd/Files-v0": {"entry_point": "agentopd.envs.files:Files", "max_episode_steps": 18},
    "agentopd/FrozenLake-v0": {"entry_point": "agentopd.envs.frozen_lake:FrozenLake", "max_episode_steps": 100},
    "agentopd/Mcp-v0": {"entry_point": "agentopd.envs.mcp:Mcp", "max_episode_steps": 20},
    "agentopd/Questions-v0": {"entry_point": "agentopd.envs.questions:Questions", "max_episode_steps": 8},
    "agentopd/Reasoning-v0": {"entry_point": "agentopd.envs.reasoning:Reasoning", "max_episode_steps": 8},
    "agentopd/Search-v0": {"entry_point": "agentopd.envs.search:Search", "max_episode_steps": 12},
    "agentopd/Shop-v0": {"entry_point": "agentopd.envs.shop:Shop", "max_episode_steps": 12},
    "agentopd/Sokoban-v0": {"entry_point": "agentopd.envs.sokoban:Sokoban", "max_episode_steps": 100},
    "agentopd/Sql-v0": {"entry_point": "agentopd.envs.sql:Sql", "max_episode_steps": 12},
    "agentopd/TextWorld-v0": {"entry_point": "agentopd.envs.text_world:TextWorld", "max_episode_steps": 50},
}

for _id, _registration in ENVS.items():
    if _id not in gymnasium.registry:  # a checkout can import this file as `envs` too
        gymnasium.register(_id, **_registration)
