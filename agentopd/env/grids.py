"""MiniGrid and BabyAI in words: what the agent sees, and experts. Nothing here imports ``minigrid`` unless one of them is made."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import gymnasium

ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
"""MiniGrid's own names, in the order of their numbers."""
LEFT, RIGHT, FORWARD, PICKUP, _, TOGGLE, DONE = range(len(ACTIONS))
INSTRUCTIONS = (
    "You walk on a grid, see what lies in front of you and fulfil a mission. left and right turn you, forward takes a step; pickup takes "
    "what is 1 ahead, if you carry nothing, and drop puts it there; toggle opens or closes the door or box 1 ahead, a locked one only "
    "if you carry the key of its colour; done does nothing. Free steps are those until something is in the way or out of sight."
)
FACING = ("east", "south", "west", "north")
WAYS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Columns and rows that a step leads on, in the order of ``FACING``."""
REACHED = frozenset(
    {"EmptyEnv", "FourRoomsEnv", "DoorKeyEnv", "LavaGapEnv", "CrossingEnv", "MultiRoomEnv", "DistShiftEnv"}
)
"""Classes of environments whose mission is to stand on the goal, and that are small enough to search."""

State: TypeAlias = tuple[int, int, int, str | None, tuple[int, int] | None, frozenset[tuple[int, int]]]
"""Column, row, direction, colour of the key that is carried, where it was taken from, doors that were opened."""


def describe(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    """Mission, direction, what is carried, free steps, and what is seen from near to far: the agent's own partial view."""
    game: Any = env.unwrapped
    grid, seen = game.gen_obs_grid()
    middle, last = grid.width // 2, grid.height - 1
    carried = f"a {_name(game.carrying)}" if game.carrying else "nothing"
    things = sorted(
        (last - row + abs(column - middle), last - row, column - middle, _name(cell))
        for column in range(grid.width)
        for row in range(grid.height)
        if seen[column, row] and (column, row) != (middle, last) and (cell := grid.get(column, row))
        if cell.type not in ("wall", "floor")
    )
    told = "; ".join(f"{name} {_place(ahead, right)}" for _, ahead, right, name in things)
    ways: Mapping[str, tuple[int, int]] = {"ahead": (0, -1), "left": (-1, 0), "right": (1, 0)}
    free = ", ".join(f"{_free(grid, seen, middle, last, way)} {name}" for name, way in ways.items())
    mission = str(game.mission).strip().removesuffix(".")
    facing = FACING[int(game.agent_dir)]
    return f"Mission: {mission}.\nYou face {facing} and carry {carried}. Free steps: {free}.\nYou see: {told or 'nothing'}."


def expert_of(env: gymnasium.Env[Any, Any]) -> "Bot | Walker | None":
    """The expert of an environment, where there is one."""
    game: Any = env.unwrapped
    classes = {cls.__name__ for cls in type(game).__mro__}
    if "RoomGridLevel" in classes:
        return Bot(game)
    return Walker(game) if classes & REACHED else None


class Bot:
    """BabyAI's own bot. It knows what was seen since the episode began, follows each action, and mends its plan.

    Where it gives up (BabyAI's says so once a box was opened), it plans anew from where it is; where that fails too, it says ``done``.
    """

    def __init__(self, game: Any):
        self._game = game
        self._advice = DONE

    def start(self) -> None:
        """Plans for an episode that has just begun."""
        self._renew()

    def took(self, action: int) -> None:
        """Plans on after an action."""
        try:
            self._advice = int(self._bot.replan(self._game.actions(action)))
        except Exception:  # the bot fails by assertions, index errors and its own error alike
            self._renew()

    def __call__(self) -> int:
        """Its advice."""
        return self._advice

    def _renew(self) -> None:
        from minigrid.utils.baby_ai_bot import BabyAIBot

        make_bot: Any = BabyAIBot  # it has no types
        try:
            self._bot: Any = make_bot(self._game)
            self._advice = int(self._bot.replan())
        except Exception:
            self._advice = DONE


class Walker:
    """The shortest way to the goal by search in the whole grid, from wherever the agent is; it takes keys and opens doors."""

    def __init__(self, game: Any):
        self._game = game

    def start(self) -> None:
        """Nothing is kept."""

    def took(self, action: int) -> None:
        """Nothing is kept."""

    def __call__(self) -> int:
        """The first action of the way; ``done`` where there is none."""
        carried = self._game.carrying
        key = carried.color if carried and carried.type == "key" else "no key" if carried else None
        column, row = map(int, self._game.agent_pos)
        start: State = (column, row, int(self._game.agent_dir), key, None, frozenset())
        first: dict[State, int | None] = {start: None}
        queue = deque([start])
        while queue:
            state = queue.popleft()
            for action, after in self._onward(state):
                if after in first:
                    continue
                begun = first[state]
                first[after] = action if begun is None else begun
                if (cell := self._game.grid.get(*after[:2])) and cell.type == "goal":
                    return action if begun is None else begun
                queue.append(after)
        return DONE

    def _onward(self, state: State) -> Iterator[tuple[int, State]]:
        column, row, way, key, taken, opened = state
        yield LEFT, (column, row, (way - 1) % 4, key, taken, opened)
        yield RIGHT, (column, row, (way + 1) % 4, key, taken, opened)
        ahead = (column + WAYS[way][0], row + WAYS[way][1])
        cell = None if ahead == taken else self._game.grid.get(*ahead)
        if ahead in opened or cell is None or cell.type in ("goal", "floor") or (cell.type == "door" and cell.is_open):
            yield FORWARD, (*ahead, way, key, taken, opened)
        elif cell.type == "door" and (not cell.is_locked or cell.color == key):
            yield TOGGLE, (column, row, way, key, taken, opened | {ahead})
        elif cell.type == "key" and key is None:
            yield PICKUP, (column, row, way, cell.color, ahead, opened)


def _name(cell: Any) -> str:
    if cell.type == "lava":
        return "lava"
    state = ""
    if cell.type == "door":
        state = "open " if cell.is_open else "locked " if cell.is_locked else "closed "
    return f"{state}{cell.color} {cell.type}"


def _place(ahead: int, right: int) -> str:
    side = f"{abs(right)} {'right' if right > 0 else 'left'}" if right else ""
    return ", ".join(filter(None, (f"{ahead} ahead" if ahead else "", side)))


def _free(grid: Any, seen: Any, column: int, row: int, way: tuple[int, int]) -> int:
    """How many steps are free in a direction of the view, as far as it is seen."""
    steps = 0
    while True:
        column, row = column + way[0], row + way[1]
        if not (0 <= column < grid.width and 0 <= row < grid.height) or not seen[column, row]:
            return steps
        cell = grid.get(column, row)
        if cell and (cell.type == "lava" or not cell.can_overlap()):  # a step onto lava is one, and the last
            return steps
        steps += 1
