"""What lies in the warehouses of :mod:`agentopd.envs.mcp_warehouse`, and tasks for its tools. It knows no server: one that is made sets up logging."""

import random
from typing import Any

import numpy as np

from agentopd.envs.checkout import GOODS


def task(draw: np.random.Generator) -> dict[str, Any]:
    """A question, its answer and the calls that find it."""
    warehouse, item = int(draw.integers(1000, 10_000)), GOODS[int(draw.integers(len(GOODS)))]
    shelf, pieces = shelves_of(warehouse)[item]
    calls = [
        {"name": "find", "arguments": {"warehouse": warehouse, "item": item}},
        {"name": "count", "arguments": {"warehouse": warehouse, "shelf": shelf}},
    ]
    return {"question": f"How many {item} are in warehouse {warehouse}?", "answer": str(pieces), "calls": calls}


def shelves_of(warehouse: int) -> dict[str, tuple[int, int]]:
    """Shelf and number of pieces of each item."""
    drawn = random.Random(warehouse)
    shelves = drawn.sample(range(10, 100), len(GOODS))
    return {item: (shelf, drawn.randrange(100, 1000)) for item, shelf in zip(GOODS, shelves, strict=True)}
