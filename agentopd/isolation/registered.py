"""How a process learns of an environment that another one has registered."""

import pickle
from collections.abc import Callable

import gymnasium
from gymnasium.envs.registration import EnvSpec

from agentopd.errors import ConfigError

MAIN = "__main__"


def shipped(env_id: str, key: str = "isolation=process", instead: str = "say isolation=thread") -> bytes | None:
    """The registration of an environment, for :func:`register` of another process; ``None`` where that finds it by its id alone.

    Messages begin with ``key``, the setting that asks for it, and say what could be done ``instead``.

    Raises:
        ConfigError: It is code of this process alone, which no other can import.
    """
    if ":" in env_id:
        return None  # its module registers it there as well
    spec = gymnasium.registry.get(env_id)
    if spec is None:
        return None
    try:
        if _module(spec.entry_point) == MAIN:
            raise ValueError("it is in the file that was started")
        return pickle.dumps(spec)
    except Exception as error:  # of whatever kind: a user's object may stand in it
        raise ConfigError(
            f"{key}: environment {env_id!r} cannot be made in another process: its registration, with "
            f"entry_point={spec.entry_point!r}, is code of this process alone ({error}); register it in a module and give its id "
            f'as "module:{env_id}", or {instead}'
        ) from error


def _module(entry_point: str | Callable[..., object] | None) -> str | None:
    return entry_point.partition(":")[0] if isinstance(entry_point, str) else getattr(entry_point, "__module__", None)


def register(spec: EnvSpec) -> None:
    """Registers what :func:`shipped` gave, where there is nothing of its id, or something else."""
    if gymnasium.registry.get(spec.id) != spec:
        gymnasium.registry[spec.id] = spec
