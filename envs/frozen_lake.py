"""Gymnasium's FrozenLake in words. The optimal policy is known, from value iteration on its own table of transitions."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from gymnasium.envs.toy_text.frozen_lake import MAPS, FrozenLakeEnv, generate_random_map

from agentopd.env import TextEnv
from agentopd.env.faces import FACES
from agentopd.env.planning import Values, best, values_of
from agentopd.errors import ConfigError
from agentopd.tooling import call, tool

Direction: TypeAlias = Literal["left", "down", "right", "up"]

FACE = FACES["FrozenLakeEnv"]
TILES = {"S": "ice", "F": "ice", "H": "hole", "G": "goal"}
OFFSETS = ((0, -1), (1, 0), (0, 1), (-1, 0))
"""Rows and columns that the directions lead on, in the order of Gymnasium's actions."""

MAX_SIZE = 10
DISCOUNTS = 0.8, 1 - 1e-7
"""Beyond these a step nearer to a goal that is far changes its value by no more than rounding does, and the expert knows no way."""
MIN_FROZEN = 0.7
"""With less ice a map that can be crossed is long in coming."""


class FrozenLake(TextEnv):
    """Asks to cross a frozen lake to its goal without falling into a hole, one move a call.

    Reward 1 at the goal, 0 in a hole; both end the episode.

    Args:
        map_name: ``"4x4"`` or ``"8x8"``, Gymnasium's maps. Default: a map is generated for each episode.
        size: Rows and columns of generated maps, 2 to 10.
        p: The share of ice in generated maps, 0.7 to 1.
        is_slippery: Whether a move may go to one of the two sides instead.
        success_rate: How often a move on slippery ice goes where it is meant to.
        discount: The expert maximises the expected ``discount ** moves`` at the goal: nearly the chance to get there, but of equal
            chances the one that is quicker.
    """

    instructions = "Cross the frozen lake to the goal G, one move at a time. S and F are ice, H is a hole."

    def __init__(
        self,
        map_name: str | None = None,
        size: int = 4,
        p: float = 0.8,
        is_slippery: bool = False,
        success_rate: float = 1 / 3,
        discount: float = 0.999,
    ):
        if map_name is not None and map_name not in MAPS:
            raise ConfigError(f"map_name={map_name!r} is not known; there are: {', '.join(MAPS)}, or null to generate")
        if not 2 <= size <= MAX_SIZE or not MIN_FROZEN <= p <= 1:
            raise ConfigError(f"size={size} must be 2 to {MAX_SIZE}, and p={p} must be {MIN_FROZEN} to 1")
        if not 0 < success_rate <= 1 or not DISCOUNTS[0] <= discount <= DISCOUNTS[1]:
            told = f"success_rate={success_rate} must be above 0 and at most 1, discount={discount} must be {DISCOUNTS[0]} to {DISCOUNTS[1]}"
            raise ConfigError(told)
        self.map_name, self.size, self.p = map_name, size, p
        self.is_slippery, self.success_rate, self.discount = is_slippery, success_rate, discount

    def start(self) -> str:
        """Takes the map, or draws one."""
        if self.map_name is None:
            rows = generate_random_map(self.size, self.p, seed=int(self.np_random.integers(2**31)))
        else:
            rows = MAPS[self.map_name]
        self.rows = tuple(rows)
        self.lake: Any = FrozenLakeEnv(desc=rows, is_slippery=self.is_slippery, success_rate=self.success_rate)
        self.lake.np_random = self.np_random
        self.values = _values(self.rows, self.is_slippery, self.success_rate, self.discount)
        self.lake.reset()
        self.policy = self._policy()
        return "\n".join([*self.rows, self._here()])

    @tool
    def move(self, direction: Direction) -> str:
        """Move one step."""
        _, reward, over, _, _ = self.lake.step(FACE.actions.index(direction))
        if over:
            self.finish(reward=float(reward))
            return "You are at the goal." if reward else "You fell into a hole."
        return self._here()

    def expert(self) -> str:
        """The first of the best directions."""
        return call("move", direction=next(iter(self.expert_distribution())))

    def expert_distribution(self) -> Mapping[str, float]:
        """The best directions here, each as probable as the others."""
        best = self._best(int(self.lake.s))
        return dict.fromkeys(best, 1 / len(best))

    def privileged(self) -> dict[str, Any]:
        """The best directions on each tile, a row a line, and the value of the start under them."""
        return {"policy": self.policy, "value": float(self.values[self.rows[0].index("S")].max())}

    def _best(self, state: int) -> list[str]:
        return [FACE.actions[action] for action in best(self.values[state])]

    def _policy(self) -> str:
        def told(state: int, tile: str) -> str:
            return "/".join(self._best(state)) if TILES[tile] == "ice" else TILES[tile]

        width = len(self.rows[0])
        return "\n".join(
            ", ".join(told(width * r + c, tile) for c, tile in enumerate(row)) for r, row in enumerate(self.rows)
        )

    def _here(self) -> str:
        place = FACE.describe(self.lake, self.lake.s).rpartition("\n")[2]
        row, column = divmod(int(self.lake.s), len(self.rows[0]))
        around = (
            f"{name} {_tile(self.rows, row + r, column + c)}"
            for name, (r, c) in zip(FACE.actions, OFFSETS, strict=True)
        )
        return f"{place} {', '.join(around).capitalize()}."


def _tile(rows: Sequence[str], row: int, column: int) -> str:
    inside = 0 <= row < len(rows) and 0 <= column < len(rows[0])
    return TILES[rows[row][column]] if inside else "edge"


@lru_cache(maxsize=64)
def _values(rows: tuple[str, ...], is_slippery: bool, success_rate: float, discount: float) -> Values:
    """The optimal values of the actions in each state."""
    table = FrozenLakeEnv(desc=list(rows), is_slippery=is_slippery, success_rate=success_rate).P
    return values_of(table, discount)
