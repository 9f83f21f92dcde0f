"""A room of Sokoban, searched backwards from its end, so that all that can be solved in it is known."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias, get_args

Direction: TypeAlias = Literal["up", "down", "left", "right"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


class State(NamedTuple):
    """Where the player is, and the boxes; each box is a bit, counted as cells are, row by row."""

    player: int
    boxes: int


@dataclass(frozen=True)
class Room:
    """What does not move. Cells are bits, so that sets of them are numbers."""

    size: int
    floor: int
    goals: int

    def reach(self, state: State) -> int:
        """The cells that the player can walk to."""
        free, seen, before = self.floor & ~state.boxes, 1 << state.player, 0
        while seen != before:
            before = seen
            seen |= (seen << 1 | seen >> 1 | seen << self.size | seen >> self.size) & free
        return seen

    def moved(self, state: State, direction: Direction) -> State | None:
        """What a move leads to, ``None`` where a wall or a second box is in the way."""
        step = self.steps[direction]
        to = state.player + step
        if not self.floor >> to & 1:
            return None
        if not state.boxes >> to & 1:
            return State(to, state.boxes)
        if not (self.floor & ~state.boxes) >> to + step & 1:
            return None
        return State(to, state.boxes ^ 1 << to ^ 1 << to + step)

    @cached_property
    def steps(self) -> Mapping[Direction, int]:
        """How far each direction leads among the bits."""
        return dict(zip(DIRECTIONS, (-self.size, self.size, -1, 1), strict=True))

    @cached_property
    def pushes(self) -> Mapping[tuple[int, int], int]:
        """The fewest pushes that solve a state, by its boxes and the player's reach. A state that is missing cannot be solved.

        The search is backwards and breadth first: from boxes on all goals, pull one at a time.
        """
        found = {(self.goals, self.reach(State(cell, self.goals))): 0 for cell in cells_of(self.floor & ~self.goals)}
        queue = deque(found)
        while queue:
            boxes, reach = here = queue.popleft()
            free = self.floor & ~boxes
            for box in cells_of(boxes):
                for step in self.steps.values():
                    if not reach >> box - step & 1 or not free >> box - 2 * step & 1:
                        continue
                    before = State(box - 2 * step, boxes ^ 1 << box ^ 1 << box - step)
                    key = before.boxes, self.reach(before)
                    if key not in found:
                        found[key] = found[here] + 1
                        queue.append(key)
        return found

    @property
    def hardest(self) -> int:
        """The most pushes that a state needs."""
        return max(self.pushes.values())

    def pushes_left(self, state: State) -> int | None:
        """The fewest pushes that solve a state, ``None`` where it is lost."""
        return self.pushes.get((state.boxes, self.reach(state)))

    def plan(self, state: State) -> Iterator[Direction]:
        """Moves that solve a state in the fewest pushes, by the shortest walk to each; none where it is lost."""
        while self.pushes_left(state):
            for direction in self._next_push(state):
                yield direction
                state = self.moved(state, direction) or state

    def _next_push(self, state: State) -> tuple[Direction, ...]:
        left, seen = self.pushes_left(state) or 0, {state}
        queue: deque[tuple[State, tuple[Direction, ...]]] = deque([(state, ())])
        while True:
            here, path = queue.popleft()
            for direction in DIRECTIONS:
                after = self.moved(here, direction)
                if after is None or after in seen:
                    continue
                if after.boxes == state.boxes:
                    seen.add(after)
                    queue.append((after, (*path, direction)))
                elif self.pushes_left(after) == left - 1:
                    return (*path, direction)

    def picture(self, state: State) -> str:
        """The room as text, a row a line."""

        def sign(cell: int) -> str:
            if not self.floor >> cell & 1:
                return "#"
            pair = "@+" if cell == state.player else "$*" if state.boxes >> cell & 1 else "-."
            return pair[self.goals >> cell & 1]

        rows = (range(self.size * row, self.size * (row + 1)) for row in range(self.size))
        return "\n".join("".join(map(sign, row)) for row in rows)


def bits_of(cells: Iterable[int]) -> int:
    """A set of cells as a number."""
    return sum(1 << cell for cell in cells)


def cells_of(bits: int) -> Iterator[int]:
    """The cells of a set, in order."""
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1
