"""Sokoban: what its search knows, and what its expert does."""

import warnings
from collections import deque
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.env import expert_action, make
from agentopd.envs.sokoban import MOST, Sokoban
from agentopd.envs.sokoban_room import DIRECTIONS, Room, State, bits_of, cells_of
from agentopd.errors import ConfigError
from agentopd.testing import HOSTILE, check_text_env
from agentopd.tooling import call

ID = "agentopd/Sokoban-v0"
KWARGS: list[dict[str, Any]] = [
    {},
    {"size": 5, "boxes": 1, "walls": 1, "pushes": 1},
    {"size": 6, "boxes": 2, "walls": 3, "pushes": 20},
    {"size": 7, "boxes": 3, "walls": 5, "pushes": 20},
    {"size": 8, "boxes": 2, "walls": 7, "pushes": 20},
    {"size": 9, "boxes": 1, "walls": 9, "pushes": 20},
]


def read(picture: str) -> tuple[Room, State]:
    rows = picture.split()
    signs = dict(enumerate("".join(rows)))
    floor, goals, boxes = (bits_of(c for c, sign in signs.items() if sign in kind) for kind in ("-.$*@+", ".*+", "$*"))
    return Room(len(rows), floor, goals), State(next(c for c, sign in signs.items() if sign in "@+"), boxes)


def placed(picture: str) -> Sokoban:
    """The environment in a room of one's own."""
    env = Sokoban()
    env.reset(seed=0)
    env.room, env.first = read(picture)
    env.state, env.boxes = env.first, env.first.boxes.bit_count()
    return env


@pytest.mark.parametrize("kwargs", KWARGS)
def test_it_keeps_the_contract_and_the_expert_always_wins(kwargs: dict[str, Any]) -> None:
    assert check_text_env(ID, **kwargs).expert_rate == 1.0


def test_gymnasium_finds_nothing_to_warn_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ID).unwrapped)


@pytest.mark.parametrize("kwargs", KWARGS)
def test_a_level_takes_as_many_pushes_as_told_and_its_solution_solves_it(kwargs: dict[str, Any]) -> None:
    env = make(ID, **kwargs)
    level: Any = env.unwrapped
    for seed in range(25):
        _, info = env.reset(seed=seed)
        facts, pushed = info["privileged"], 0
        assert 1 <= facts["pushes"] <= level.pushes
        for run in facts["solution"].split(", "):
            direction, steps = run.split()
            for _ in range(int(steps)):
                before = level.state.boxes
                _, reward, over, _, info = env.step(call("move", direction=direction))
                pushed += level.state.boxes != before
        assert (pushed, reward, over, info["success"]) == (facts["pushes"], 1.0, True, True)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("size", "boxes", "walls"), [(5, 1, 1), (6, 2, 2), (7, 1, 3)])
def test_what_is_known_of_a_room_is_what_searching_it_forwards_finds(
    seed: int, size: int, boxes: int, walls: int
) -> None:
    env = Sokoban(size, boxes, walls)
    env.reset(seed=seed)
    cells, lost = list(cells_of(env.room.floor)), 0
    for player in cells[::3]:
        for box in range(len(cells) - boxes + 1):
            state = State(player, bits_of(cells[box : box + boxes]))
            if not state.boxes >> player & 1:
                assert env.room.pushes_left(state) == fewest(env.room, state)
                lost += env.room.pushes_left(state) is None
    assert lost
    assert env.room.pushes_left(env.state) == fewest(env.room, env.state)


def fewest(room: Room, state: State) -> int | None:
    """Pushes, by a search move by move in which walking costs nothing."""
    queue, costs = deque([state]), {state: 0}
    while queue:
        here = queue.popleft()
        if here.boxes == room.goals:
            return costs[here]
        for after in filter(None, (room.moved(here, direction) for direction in DIRECTIONS)):
            pushed = after.boxes != here.boxes
            if costs[here] + pushed < costs.get(after, 10**9):
                costs[after] = costs[here] + pushed
                (queue.append if pushed else queue.appendleft)(after)
    return None


def test_a_room_by_hand() -> None:
    room, state = read("""
        ######
        #@---#
        #-$-.#
        #----#
        #----#
        ######""")
    assert room.pushes_left(state) == 2
    assert list(room.plan(state)) == ["down", "right", "right"]
    after = room.moved(State(7, state.boxes), "down")
    assert after == State(13, state.boxes)
    assert room.moved(after, "right") == State(14, 1 << 15)
    assert room.moved(after, "left") is None
    corner = State(9, 1 << 7)
    assert room.pushes_left(corner) is None
    assert list(room.plan(corner)) == []
    assert room.picture(State(16, 1 << 14)).splitlines()[2] == "#-$-+#"
    assert room.picture(State(7, 1 << 16)).splitlines()[2] == "#---*#"


TWO = """
    ######
    #@$-.#
    #-$-.#
    #----#
    #----#
    ######"""


def test_a_level_by_hand() -> None:
    env = placed(TWO)
    assert env.expert() == call("move", direction="right", steps=2)
    said, reward, over, _, info = env.step(call("move", direction="right", steps=3))
    assert (
        said
        == "######\n#--@*#\n#-$-.#\n#----#\n#----#\n######\n1 of 2 boxes on goals. The way right is blocked after 2."
    )
    assert (reward, over, info["errors"]) == (0.0, False, [])
    assert env.step(call("move", direction="right"))[0].endswith("The way right is blocked after 0.")
    env.step(call("move", direction="left", steps=2))
    env.step(call("move", direction="down"))
    assert env.expert() == call("move", direction="right", steps=2)
    said, reward, over, _, info = env.step(call("move", direction="right", steps=5))  # it ends when all are on goals
    assert said == "######\n#---*#\n#--@*#\n#----#\n#----#\n######\n2 of 2 boxes on goals."
    assert (reward, over, info["success"]) == (1.0, True, True)


def test_what_is_lost_is_begun_again() -> None:
    env = placed(TWO)
    first = env.room.picture(env.state)
    env.step(call("move", direction="right"))
    assert env.expert() == call("move", direction="right")
    said = env.step(call("move", direction="down", steps=2))[0]  # a box to the lower wall, which it never leaves
    assert said == "######\n#--$.#\n#---.#\n#-@--#\n#-$--#\n######\n0 of 2 boxes on goals."
    assert env.expert() == call("restart")
    assert env.step(call("restart"))[0] == f"{first}\n0 of 2 boxes on goals."
    assert env.expert() != call("restart")


moves = st.builds(
    lambda direction, steps: call("move", direction=direction, steps=steps),
    st.sampled_from(DIRECTIONS),
    st.integers(-1, 8),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(moves, st.sampled_from(HOSTILE)), max_size=30), st.integers(0, 1000))
def test_the_expert_solves_it_whatever_was_done(actions: list[str], seed: int) -> None:
    env = make(ID)
    env.reset(seed=seed)
    for action in actions:
        if env.step(action)[2]:
            return
    for _ in range(60):
        _, _, over, _, info = env.step(expert_action(env))
        if over:
            break
    assert info["success"] is True


@pytest.mark.parametrize("steps", [0, -1, 7, 10**12])
def test_steps_are_bounded(steps: int) -> None:
    env = make(ID)
    first, _ = env.reset(seed=0)
    said, reward, over, _, info = env.step(call("move", direction="up", steps=steps))
    assert (said, reward, over, info["errors"]) == ("steps must be 1 to 6", 0.0, False, ["tool_error"])
    assert env.step(call("restart"))[0] == first


@pytest.mark.parametrize(("size", "boxes"), MOST.items())
def test_the_search_is_bounded(size: int, boxes: int) -> None:
    env = Sokoban(size, boxes, walls=0)
    for seed in range(3):
        env.reset(seed=seed)
        assert len(env.room.pushes) < 5000


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"size": 4}, "size=4, boxes=2: boxes must be at least 1 and at most 1 at size 5, 2 at size 6"),
        ({"size": 10}, "size=10"),
        ({"boxes": 0}, "boxes=0"),
        ({"size": 8, "boxes": 3}, "size=8, boxes=3"),
        ({"walls": 6}, "walls=6 must be 0 to 5 at size 7"),
        ({"walls": -1}, "walls=-1"),
        ({"pushes": 0}, "pushes=0 1 to 20"),
        ({"pushes": 21}, "pushes=21"),
    ],
)
def test_settings_are_checked(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(ID, **kwargs)
