"""The verbs of the command line, one file each: a docstring (summary, blank line, examples), ``configure`` and ``run``."""

from types import ModuleType

from agentopd.cli import (
    annotate,
    compare,
    doctor,
    envs,
    evaluate,
    export,
    methods,
    new,
    plan,
    play,
    replay,
    rollout,
    scaling,
    stats,
    sweep,
    take_in,
    train,
    view,
)

VERBS: dict[str, ModuleType] = {
    "train": train,
    "eval": evaluate,
    "rollout": rollout,
    "annotate": annotate,
    "replay": replay,
    "stats": stats,
    "export": export,
    "import": take_in,
    "view": view,
    "sweep": sweep,
    "compare": compare,
    "scaling": scaling,
    "doctor": doctor,
    "plan": plan,
    "methods": methods,
    "envs": envs,
    "play": play,
    "new": new,
}
