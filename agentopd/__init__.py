"""Training of tool-using agents by on-policy distillation.

A student language model acts for many turns in Gymnasium environments with tools; teachers annotate what it did; one objective
turns the annotations into a gradient. A method is a configuration, never a trainer.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentopd import objective as objective
    from agentopd import records as records
    from agentopd import testing as testing
    from agentopd.config import Config as Config
    from agentopd.config import load_config as load_config
    from agentopd.env import TextEnv as TextEnv
    from agentopd.env import TextSpace as TextSpace
    from agentopd.env import make as make
    from agentopd.errors import AgentOPDError as AgentOPDError
    from agentopd.errors import ConfigError as ConfigError
    from agentopd.errors import EnvError as EnvError
    from agentopd.errors import PolicyError as PolicyError
    from agentopd.errors import RecordError as RecordError
    from agentopd.errors import TeacherError as TeacherError
    from agentopd.errors import ToolError as ToolError
    from agentopd.errors import TrainingError as TrainingError
    from agentopd.evaluation import Panel as Panel
    from agentopd.isolation.vector import make_vec as make_vec
    from agentopd.replaying.whole import replay as replay
    from agentopd.tooling import call as call
    from agentopd.tooling import tool as tool
    from agentopd.training.loop.arguments import AgentOPDConfig as AgentOPDConfig
    from agentopd.training.loop.trainer import AgentOPDTrainer as AgentOPDTrainer
    from agentopd.training.replaying.step import replay_step as replay_step
    from agentopd.training.run.whole import Result as Result
    from agentopd.training.run.whole import evaluate as evaluate
    from agentopd.training.run.whole import train as train
    from agentopd.types import Annotation as Annotation
    from agentopd.types import Record as Record
    from agentopd.types import Segment as Segment
    from agentopd.types import Trajectory as Trajectory
    from agentopd.types import Turn as Turn

__version__ = "0.1.0"

_HOMES = {
    "agentopd.env": ("TextEnv", "TextSpace", "make"),
    "agentopd.isolation.vector": ("make_vec",),
    "agentopd.tooling": ("tool", "call"),
    "agentopd.types": ("Annotation", "Record", "Segment", "Trajectory", "Turn"),
    "agentopd.config": ("Config", "load_config"),
    "agentopd.training.run.whole": ("Result", "evaluate", "train"),
    "agentopd.training.loop.trainer": ("AgentOPDTrainer",),
    "agentopd.training.loop.arguments": ("AgentOPDConfig",),
    "agentopd.evaluation": ("Panel",),
    "agentopd.replaying.whole": ("replay",),
    "agentopd.training.replaying.step": ("replay_step",),
    "agentopd.errors": (
        "AgentOPDError", "ConfigError", "EnvError", "PolicyError", "RecordError", "TeacherError", "ToolError", "TrainingError",
    ),
}  # fmt: skip
_ROOMS = ("objective", "records", "testing")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AgentOPDConfig",
    "AgentOPDError",
    "AgentOPDTrainer",
    "Annotation",
    "Config",
    "ConfigError",
    "EnvError",
    "Panel",
    "PolicyError",
    "Record",
    "RecordError",
    "Result",
    "Segment",
    "TeacherError",
    "TextEnv",
    "TextSpace",
    "ToolError",
    "TrainingError",
    "Trajectory",
    "Turn",
    "call",
    "evaluate",
    "load_config",
    "make",
    "make_vec",
    "objective",
    "records",
    "replay",
    "replay_step",
    "testing",
    "tool",
    "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: an environment's file need not wait for torch."""
    if name in _ROOMS:
        return importlib.import_module(f"agentopd.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'agentopd' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
