"""Sokoban: push every box onto a goal. Levels are drawn; all that can be solved in a room is known, so there is an exact expert."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from agentopd.env import TextEnv
from agentopd.envs.sokoban_room import Direction, Room, State, bits_of, cells_of
from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import call, tool

MOST: Mapping[int, int] = {5: 1, 6: 2, 7: 3, 8: 2, 9: 2}
"""The most boxes in rooms of each size: with more, searching the room is no longer a matter of milliseconds."""
MAX_PUSHES = 20
ROOMS = 4
"""How many rooms are drawn to find one that is hard enough."""


class Sokoban(TextEnv):
    """Shows a room as text and asks to push every box onto a goal.

    Reward 1 when every box is on a goal, which ends the episode, else 0. A level can be lost, by a box in a corner for instance;
    ``restart`` puts it back, and that is what the expert does then.

    Args:
        size: Rows and columns of the room, with the walls around it, 5 to 9.
        boxes: How many, at least 1; at most 1 where ``size`` is 5, 3 where it is 7, else 2.
        walls: How many blocks of wall stand inside, at most a fifth of the cells there.
        pushes: How many pushes a level takes at best, 1 to 20; fewer where no room as hard was found.
    """

    instructions = "Push every box $ onto a goal. You are @, # is wall, - is floor, . is a goal, * a box on a goal, + you on a goal."

    def __init__(self, size: int = 7, boxes: int = 2, walls: int = 2, pushes: int = 6):
        if size not in MOST or not 1 <= boxes <= MOST[size]:
            most = ", ".join(f"{n} at size {each}" for each, n in MOST.items())
            raise ConfigError(f"size={size}, boxes={boxes}: boxes must be at least 1 and at most {most}")
        blocks = (size - 2) ** 2 // 5
        if not 0 <= walls <= blocks or not 1 <= pushes <= MAX_PUSHES:
            raise ConfigError(
                f"walls={walls} must be 0 to {blocks} at size {size}, and pushes={pushes} 1 to {MAX_PUSHES}"
            )
        self.size, self.boxes, self.walls, self.pushes = size, boxes, walls, pushes

    def start(self) -> str:
        """Draws rooms until one is hard enough, and in it where the player and the boxes are."""
        room, drawn = self._room(), 1
        while room.hardest < self.pushes and (drawn < ROOMS or not room.hardest):
            room, drawn = max(room, self._room(), key=lambda each: each.hardest), drawn + 1
        pushes = min(self.pushes, room.hardest)
        fitting = [key for key, left in room.pushes.items() if left == pushes]
        boxes, reach = fitting[int(self.np_random.integers(len(fitting)))]
        self.room, self.first = room, State(int(self.np_random.choice(list(cells_of(reach)))), boxes)
        self.state = self.first
        self.facts = {"pushes": pushes, "solution": ", ".join(f"{way} {n}" for way, n in self._runs())}
        return self._told()

    @tool
    def move(self, direction: Direction, steps: int = 1) -> str:
        """Move, and push a box that is in the way.

        Args:
            steps: How many cells.
        """
        if not 1 <= steps < self.size:
            raise ToolError(f"steps must be 1 to {self.size - 1}")
        for taken in range(steps):
            after = self.room.moved(self.state, direction)
            if after is None:
                return f"{self._told()} The way {direction} is blocked after {taken}."
            self.state = after
            if self.state.boxes == self.room.goals:
                self.finish(reward=1.0)
                break
        return self._told()

    @tool
    def restart(self) -> str:
        """Put everything back to where it was at first."""
        self.state = self.first
        return self._told()

    def expert(self) -> str:
        """The next moves in one direction of a solution with the fewest pushes; where there is none any more, ``restart``."""
        for direction, steps in self._runs():
            return call("move", direction=direction, **({"steps": steps} if steps > 1 else {}))
        return call("restart")

    def privileged(self) -> dict[str, Any]:
        """The fewest pushes, and a solution with so many, from the first state."""
        return dict(self.facts)

    def _runs(self) -> Iterator[tuple[Direction, int]]:
        return ((direction, len(list(run))) for direction, run in groupby(self.room.plan(self.state)))

    def _room(self) -> Room:
        """A room whose floor hangs together."""
        inside = [self.size * row + column for row in range(1, self.size - 1) for column in range(1, self.size - 1)]
        while True:
            floor = self.np_random.permutation(inside)[self.walls :].tolist()
            room = Room(self.size, bits_of(floor), bits_of(floor[: self.boxes]))
            if room.reach(State(floor[0], 0)) == room.floor:
                return room

    def _told(self) -> str:
        done = (self.state.boxes & self.room.goals).bit_count()
        return f"{self.room.picture(self.state)}\n{done} of {self.boxes} boxes on goals."
