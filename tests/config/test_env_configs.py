"""The shipped configurations of single environments."""

from pathlib import Path

import gymnasium
import pytest
from gymnasium.error import DependencyNotInstalled

from agentopd.config import load_config
from agentopd.env import make
from agentopd.errors import ConfigError

FILES = sorted((Path(__file__).parents[2] / "configs" / "envs").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_says_its_command_and_makes_its_environment(path: Path) -> None:
    assert path.read_text().startswith(f"# agentopd train configs/envs/{path.name}\n")
    config = load_config(f"configs/envs/{path.name}")
    assert config == load_config(f"envs/{path.stem}")
    for entry in config.envs:
        module = entry.id.partition(":")[0]
        if module == entry.id:
            assert entry.id in gymnasium.registry
        else:
            pytest.importorskip(module)
        try:
            make(entry.id, **entry.kwargs).close()
        except ConfigError as error:
            if not isinstance(error.__cause__, DependencyNotInstalled):
                raise


def test_there_are_some() -> None:
    assert FILES
