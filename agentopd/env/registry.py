"""From an environment's id to its Gymnasium registration, or to a message that says what to do."""

import difflib
import importlib
import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points, packages_distributions, version

import gymnasium
from gymnasium.envs.registration import EnvSpec

import agentopd.envs  # noqa: F401 - registers the shipped environments
from agentopd.errors import ConfigError

GROUP = "agentopd.envs"
"""Packages declare ``name = "package.module"`` in this entry-point group; importing the module registers their environments."""

PROVIDERS: Mapping[str, str] = {
    "ALE/": 'pip install "gymnasium[atari]", then id "ale_py:ALE/..."',
    "BabyAI-": 'pip install "agentopd[minigrid]", then id "minigrid:BabyAI-..."',
    "MiniGrid-": 'pip install "agentopd[minigrid]", then id "minigrid:MiniGrid-..."',
}
"""What to install for well-known ids, by how they begin."""


def resolve(id: str) -> EnvSpec:
    """The registration of ``id``, of the form ``ns/Name-v0`` or ``module:ns/Name-v0``.

    Raises:
        ConfigError: the module cannot be imported, or nothing is registered under ``id``.
    """
    module, _, name = id.rpartition(":")
    if module:
        _import(module, id)
    found = gymnasium.registry.get(name)
    broken: tuple[str, ...] = ()
    if found is None:
        broken = _load_third_parties()
        found = gymnasium.registry.get(name)
    if found is None:
        raise ConfigError(f"no environment is registered as {name!r}" + "".join(_hints(module, name, broken)))
    return found


def _import(module: str, id: str) -> None:
    if not {"", os.getcwd()} & set(sys.path):  # a console script does not put it there, unlike `python -m`
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except Exception as error:  # anything may happen while a user's file is run
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            where = f"there is no {module}.py in {os.getcwd()} and no installed package of that name"
            raise ConfigError(f"environment {id!r}: module {module!r} cannot be imported: {where}") from error
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"environment {id!r}: importing {module!r} failed with {reason}") from error


@cache
def _load_third_parties() -> tuple[str, ...]:
    """Imports every entry point of the group, once; returns what failed, to be told if an id stays unknown."""
    broken = []
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # one broken package must not hide the others
            broken.append(f"{point.name} ({point.value}): {type(error).__name__}: {error}")
    return tuple(broken)


def _hints(module: str, name: str, broken: tuple[str, ...]) -> list[str]:
    hints = []
    near = difflib.get_close_matches(name, list(gymnasium.registry), n=3, cutoff=0.5)
    if near:
        hints.append(f"; did you mean {' or '.join(map(repr, near))}?")
    if module:
        hints.append(f"; module {module!r} was imported but does not register it")
    else:
        hints += [
            f"; it comes with another package: {how}" for start, how in PROVIDERS.items() if name.startswith(start)
        ]
        hints.append('; for an environment in a file or package of yours write "module:ns/Name-v0"')
    return hints + [f"; entry point {problem} could not be loaded" for problem in broken]


def package_of(id: str) -> dict[str, str]:
    """The installed package that has an environment, with its version; none of agentopd's and Gymnasium's own, and of files of one's own."""
    spec = gymnasium.registry.get(id.rpartition(":")[2])
    entry = None if spec is None else spec.entry_point
    module = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
    top = module.partition(":")[0].partition(".")[0]
    return {} if top in ("", "agentopd", "gymnasium") else {name: version(name) for name in _packages().get(top, ())}


@cache
def _packages() -> Mapping[str, list[str]]:
    return packages_distributions()
