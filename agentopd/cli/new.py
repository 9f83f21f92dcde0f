"""Write an environment to start from, and its test.

examples:
  agentopd new env maze
  agentopd new env my-shop --folder envs
  python -m pytest test_maze.py && agentopd play maze:me/Maze-v0
"""

import argparse
import keyword
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

ENVIRONMENT = '''\
"""{title}: find a hidden number. Change what it asks, its tools and its expert."""

from typing import Any

import gymnasium
from agentopd import TextEnv, call, tool


class {name}(TextEnv):
    """Asks for a number from 1 to ``highest``. Reward 1 for naming it, and 0.1 less for each wrong guess.

    Args:
        highest: The largest number.
    """

    instructions = "Find the hidden number. A wrong guess costs."  # the system message

    def __init__(self, highest: int = 20) -> None:
        self.highest = highest

    def start(self) -> str:
        """Draws a task. All randomness comes from ``self.np_random``, so that a seed is an episode."""
        self.low, self.high = 1, self.highest
        self.hidden = int(self.np_random.integers(self.low, self.high + 1))
        return f"A number from {{self.low}} to {{self.high}}."

    @tool
    def compare(self, number: int) -> str:
        """Compare a number with the hidden one.

        Args:
            number: The number to compare.
        """
        larger = self.hidden > number
        self.low, self.high = (max(self.low, number + 1), self.high) if larger else (self.low, min(self.high, number))
        return f"The hidden number is {{'' if larger else 'not '}}larger."

    @tool
    def guess(self, number: int) -> str:
        """Name the hidden number.

        Args:
            number: The number.
        """
        if number != self.hidden:
            self.add_reward(-0.1)
            return "Wrong."
        self.finish(reward=1.0)
        return "Right."

    def expert(self) -> str:
        """The best action now; stages that imitate need it, everything else does without."""
        name = "guess" if self.low == self.high else "compare"
        return call(name, number=(self.low + self.high) // 2)

    def privileged(self) -> dict[str, Any]:
        """Facts for teachers, which stand in no observation."""
        return {{"hidden": self.hidden}}


gymnasium.register("me/{name}-v0", entry_point={name}, max_episode_steps=8)
'''
TEST = '''\
"""The rules that every environment keeps, and what is particular to this one."""

from agentopd import call, make
from agentopd.testing import check_text_env

ID = "{module}:me/{name}-v0"


def test_it_keeps_the_rules_and_its_expert_succeeds() -> None:
    assert check_text_env(ID).expert_rate == 1.0
    assert check_text_env(ID, highest=3).expert_rate == 1.0


def test_a_wrong_guess_costs() -> None:
    env = make(ID)
    _, info = env.reset(seed=0)
    wrong = info["privileged"]["hidden"] % 20 + 1
    assert env.step(call("guess", number=wrong))[:3] == ("Wrong.", -0.1, False)
'''


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("what", choices=("env",), help="what to write")
    parser.add_argument(
        "name", help="its name, such as maze: the files are maze.py and test_maze.py, the class is Maze"
    )
    parser.add_argument("--folder", default=".", help="where to write them (default: here)")


def run(arguments: argparse.Namespace) -> int:
    """Writes the two files, and says how to go on."""
    from agentopd.errors import ConfigError

    folder = Path(arguments.folder)
    module, name = _names(arguments.name, folder)
    pages = {f"{module}.py": ENVIRONMENT, f"test_{module}.py": TEST}
    try:
        for file in pages:
            if (folder / file).is_symlink() or (folder / file).exists():
                raise ConfigError(f"{folder / file} is there already; take another name or --folder")
        folder.mkdir(parents=True, exist_ok=True)
        for file, page in pages.items():
            (folder / file).write_text(page.format(title=name, name=name, module=module), encoding="utf-8")
            print(folder / file)
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be written: {error.strerror}; take another name or --folder"
        ) from error
    inside = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    print(f"{inside}python -m pytest test_{module}.py")
    print(f"{inside}agentopd play {module}:me/{name}-v0")
    print(f"{inside}agentopd train quickstart env.id={module}:me/{name}-v0")
    return 0


def _names(given: str, folder: Path) -> tuple[str, str]:
    """What the module and the class are called.

    Raises:
        ConfigError: Python takes none of that name, or the module would hide another one.
    """
    from agentopd.errors import ConfigError

    module = given.lower().replace("-", "_")
    name = "".join(part.capitalize() for part in module.split("_"))
    if not re.fullmatch(r"[a-z][a-z0-9_]*", module) or keyword.iskeyword(module) or keyword.iskeyword(name):
        raise ConfigError(
            f"name={given!r}: it becomes a file and a class; take letters, digits and hyphens, a letter first, and no word of Python's own"
        )
    found = find_spec(module)
    if found is not None and found.origin and Path(found.origin).parent not in (Path.cwd(), folder.absolute()):
        raise ConfigError(
            f"name={given!r}: {module}.py would hide the module {module} that Python has already; take another name"
        )
    return module, name
