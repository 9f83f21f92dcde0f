"""How ordinary Gymnasium environments look as text: a generic description of observations, and faces for the toy-text games."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces

from agentopd.env.grids import ACTIONS as GRID_ACTIONS
from agentopd.env.grids import INSTRUCTIONS as GRID_INSTRUCTIONS
from agentopd.env.grids import describe as describe_grid
from agentopd.env.grids import expert_of as grid_expert_of
from agentopd.env.planning import Planner
from agentopd.errors import ConfigError

LONGEST = 1e16
"""The number from which on four digits and a power of ten are told: no larger one is exact to its last digit."""

Describe: TypeAlias = Callable[[gymnasium.Env[Any, Any], Any], str]
"""Tells an observation of an environment (wrappers included) as text."""

MAX_NUMBERS = 64
"""The longest array that is told number by number."""


class Expert(Protocol):
    """Who knows the best action of an environment behind a text face, whatever was done before. Actions are counted from 0."""

    def start(self) -> None:
        """An episode has begun."""

    def took(self, action: int) -> None:
        """The environment was stepped."""

    def __call__(self) -> int:
        """The best action now. It changes nothing."""
        ...


def planner_of(env: gymnasium.Env[Any, Any]) -> Expert | None:
    """An expert that plans on the environment's table of transitions, where it has one."""
    return Planner(env) if Planner.fits(env) else None


@dataclass(frozen=True)
class Face:
    """What a model is told about an environment."""

    instructions: str
    actions: tuple[str, ...]
    """Names of the actions, in the order of their numbers."""
    describe: Describe
    success: Callable[[float], bool] = lambda total: total > 0
    """Whether an episode that terminated with this total reward was a success."""
    expert: Callable[[gymnasium.Env[Any, Any]], Expert | None] = planner_of


def actions_of(env: gymnasium.Env[Any, Any]) -> spaces.Discrete:
    """The action space of an environment that a text face can show.

    Raises:
        ConfigError: the actions are not Discrete.
    """
    if not isinstance(env.action_space, spaces.Discrete):
        raise ConfigError(f"{_name(env)}: the text face needs a Discrete action space, not {env.action_space}")
    return env.action_space


def face_of(env: gymnasium.Env[Any, Any]) -> Face:
    """The face of an environment: its own where it is known, else numbers for actions and observations."""
    space = actions_of(env)
    known = next((FACES[cls.__name__] for cls in type(env.unwrapped).__mro__ if cls.__name__ in FACES), None)
    if known:
        return replace(known, actions=known.actions[: int(space.n)])
    actions = tuple(str(int(space.start) + index) for index in range(int(space.n)))
    return Face("Choose one action a turn to get a high total reward.", actions, generic)


def tellable(env: gymnasium.Env[Any, Any]) -> None:
    """Checks that the generic description can tell the observations of ``env``.

    Raises:
        ConfigError: it cannot, and a describing function has to be given.
    """
    reason = _untellable(env.observation_space)
    if reason:
        raise ConfigError(
            f"{_name(env)}: {reason}; wrap it yourself: TextFace(env, describe=function of (env, observation))"
        )


def tell(space: spaces.Space[Any], value: Any) -> str:
    """An observation of a Discrete, MultiDiscrete, MultiBinary, Box, Text, Dict or Tuple space as text."""
    if isinstance(space, spaces.Dict):
        return "\n".join(f"{key}: {tell(part, value[key])}" for key, part in space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return ", ".join(tell(part, item) for part, item in zip(space.spaces, value, strict=True))
    if isinstance(space, spaces.Text):
        return str(value)
    return " ".join(_digits(number) for number in np.ravel(value).tolist())


def _digits(number: float) -> str:
    """A number of an observation; a fraction in four digits, or as many as stand before its point where those are more."""
    if not isinstance(number, float):
        return str(number)
    return f"{number:.0f}" if 1e3 <= abs(number) < LONGEST else f"{number:.4g}"


def generic(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    """An observation as its numbers: how environments are told that no face is known of."""
    return tell(env.observation_space, observation)


def _untellable(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return next(filter(None, map(_untellable, parts)), "")
    if isinstance(space, spaces.Discrete | spaces.Text):
        return ""
    if not isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return f"observations of {space} have no text form"
    count = int(np.prod(space.shape))
    return f"an observation of {count} numbers is too long to read" if count > MAX_NUMBERS else ""


def _name(env: gymnasium.Env[Any, Any]) -> str:
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def _frozen_lake(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    lake: Any = env.unwrapped
    rows = ["".join(cell.decode() for cell in row) for row in lake.desc]
    goals = [f"row {r}, column {c}" for r, row in enumerate(rows) for c, cell in enumerate(row) if cell == "G"]
    row, column = divmod(int(observation), lake.ncol)
    return "\n".join([*rows, f"You: row {row}, column {column}. Goal: {' or '.join(goals)}."])


def _cliff(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    row, column = divmod(int(observation), 12)
    return f"You: row {row}, column {column}."


_STANDS = ("red", "green", "yellow", "blue")


def _taxi(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    taxi: Any = env.unwrapped
    row, column, passenger, goal = map(int, taxi.decode(int(observation)))
    waits = "in the taxi" if passenger == len(_STANDS) else f"at {_STANDS[passenger]}"
    return f"Taxi: row {row}, column {column}. Passenger: {waits}. Destination: {_STANDS[goal]}."


def _blackjack(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    total, dealer, ace = map(int, observation)
    return f"Your sum: {total}{', with a usable ace' if ace else ''}. The dealer shows {dealer}."


_GRID = "Rows count from the top and columns from the left, from 0."

FACES: Mapping[str, Face] = {
    "FrozenLakeEnv": Face(
        "Cross the frozen lake from S to the goal G. F is ice; H is a hole and ends the episode. The ice may be slippery: then you "
        f"may slide sideways. {_GRID}",
        ("left", "down", "right", "up"),
        _frozen_lake,
    ),
    "CliffWalkingEnv": Face(
        "Walk from row 3, column 0 to row 3, column 11 in few moves on a grid of 4 rows and 12 columns. Row 3, columns 1 to 10 is a "
        f"cliff: falling costs 100 and puts you back at the start. {_GRID}",
        ("up", "right", "down", "left"),
        _cliff,
        success=lambda total: True,  # every move costs, and only reaching the goal terminates
    ),
    "TaxiEnv": Face(
        "Drive the taxi to the passenger, pick them up, and drop them off at the destination, in few moves. The map, where | is a "
        "wall: the stands are red at row 0, column 0; green at row 0, column 4; yellow at row 4, column 0; blue at row 4, column 3.\n"
        "|R: | : :G|\n| : | : : |\n| : : : : |\n| | : | : |\n|Y| : |B: |\n" + _GRID,
        ("south", "north", "east", "west", "pickup", "dropoff"),
        _taxi,
        success=lambda total: True,  # only a right drop-off terminates
    ),
    "BlackjackEnv": Face(
        "Play blackjack: get closer to 21 than the dealer without going over. Stick to stop, hit to draw a card.",
        ("stick", "hit"),
        _blackjack,
    ),
    "MiniGridEnv": Face(GRID_INSTRUCTIONS, GRID_ACTIONS, describe_grid, expert=grid_expert_of),
}
"""Faces by the name of the environment's class, or of one that it derives from."""
