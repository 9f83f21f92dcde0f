"""Small setups whose costs can be counted by hand."""

from typing import Any

from agentopd.planning.hardware import Hardware
from agentopd.planning.setup import Held, Setup, Trained
from agentopd.planning.shape import Shape
from agentopd.planning.step import Step

SHAPE = Shape(
    parameters=1400,
    body=1000,
    vocabulary=50,
    hidden=8,
    layers=2,
    heads=2,
    cached_heads=1,
    head_size=4,
    feed_forward=16,
)
STEP = Step(episodes=4, played=4, length=100, generated=40, turns=2, context=80)
DEVICE = Hardware(
    name="card",
    memory=1e6,
    bandwidth=1e6,
    bfloat16=1e9,
    float32=1e8,
    link=1e5,
    issue=1e-3,
    efficiency={"generate": 0.5, "teachers": 0.5, "learn": 0.5},
)


def setup(**changes: Any) -> Setup:
    """A student of 1400 weights under one teacher of the same shape, float32."""
    given: dict[str, Any] = {
        "student": Held("student", SHAPE, 4, acts=True),
        "teachers": (Held("teacher", SHAPE, 4, max_tokens=200),),
        "trained": Trained(1400, 5600.0, 11200.0),
        "engine": "transformers",
        "reserved": None,
        "sleeps": False,
        "concurrency": 2,
        "panel": 3,
        "longest": 100,
        "max_tokens": 200,
        "chunk_rows": 10,
        "checkpoints": None,
        "autocast": False,
        "live": False,
    }
    return Setup(**(given | changes))
