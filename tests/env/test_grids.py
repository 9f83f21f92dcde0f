"""MiniGrid and BabyAI in words, and their experts."""

import random
from typing import Any

import pytest

from agentopd.env import expert_action, has_expert, make, system_prompt, tools_of
from agentopd.testing import check_text_env
from agentopd.tooling import call

pytest.importorskip("minigrid", reason='pip install "agentopd[minigrid]"')


@pytest.mark.parametrize(
    "id",
    [
        "MiniGrid-Empty-5x5-v0",
        "MiniGrid-DoorKey-6x6-v0",
        "MiniGrid-LavaGapS5-v0",
        "BabyAI-GoToObj-v0",
        "BabyAI-GoToLocal-v0",
    ],
)
def test_grids_conform_and_their_expert_always_arrives(id: str) -> None:
    assert check_text_env(f"minigrid:{id}", time_limit=30.0).expert_rate == 1.0


def test_a_door_and_its_key_by_hand() -> None:
    env = make("minigrid:MiniGrid-DoorKey-5x5-v0")
    mission = "Mission: use the key to open the door and then get to the goal."
    observation, _ = env.reset(seed=1)
    assert observation.splitlines() == [
        mission,
        "You face south and carry nothing. Free steps: 0 ahead, 0 left, 0 right.",
        "You see: locked yellow door 1 left; yellow key 1 ahead.",
    ]
    way = ("pickup", "left", "toggle", "forward", "forward", "right", "forward")
    said = []
    for action in way:
        assert expert_action(env) == call("act", action=action)
        said.append(env.step(call("act", action=action)))
    assert said[0][0].splitlines()[1] == "You face south and carry a yellow key. Free steps: 1 ahead, 0 left, 0 right."
    assert said[1][0].splitlines()[2] == "You see: locked yellow door 1 ahead."
    assert said[2][0].splitlines()[2] == "You see: open yellow door 1 ahead; green goal 2 ahead, 1 right."
    assert [step[1] for step in said[:-1]] == [0] * 6
    assert said[-1][1] == pytest.approx(1 - 0.9 * 7 / 250)  # MiniGrid's: less for each step of max_steps
    assert said[-1][4]["success"] is True


def test_no_step_onto_lava_is_told_as_free() -> None:
    env = make("minigrid:MiniGrid-DistShift1-v0")
    observation, _ = env.reset(seed=1)
    assert "You see: lava 2 ahead;" in observation
    assert "Free steps: 1 ahead, 0 left, 3 right." in observation


@pytest.mark.parametrize(
    "id", ["MiniGrid-DoorKey-6x6-v0", "BabyAI-GoToObj-v0", "BabyAI-PickupLoc-v0", "BabyAI-PutNextLocalS5N3-v0"]
)
def test_the_expert_goes_on_from_wherever_the_student_came(id: str) -> None:
    solved = [wander(id, seed, 12) for seed in range(10)]
    assert all(solved), solved


def wander(id: str, seed: int, steps: int) -> bool:
    """Random actions (no box is opened, of which BabyAI's bot says that it gives up), then the expert's."""
    env: Any = make(f"minigrid:{id}")
    env.reset(seed=seed)
    dice = random.Random(seed)
    over, info = False, {}
    for turn in range(300):
        ahead = env.unwrapped.grid.get(*env.unwrapped.front_pos)
        names = ["left", "right", "forward", "pickup", "drop"] + (["toggle"] if ahead and ahead.type == "door" else [])
        action = call("act", action=dice.choice(names)) if turn < steps else expert_action(env)
        _, _, over, cut, info = env.step(action)
        if over or cut:
            break
    return over and bool(info["success"])


def test_a_bot_that_gave_up_says_done_or_goes_on() -> None:
    env: Any = make("minigrid:BabyAI-PickupLoc-v0")
    for seed in range(20):
        env.reset(seed=seed)
        for _ in range(10):
            _, _, over, cut, _ = env.step(call("act", action="toggle"))
            if over or cut:
                break
            expert_action(env)
            if env.step(call("act", action="forward"))[2]:
                break


def test_fewer_actions_have_fewer_names_and_other_missions_no_expert() -> None:
    env = make("minigrid:MiniGrid-Dynamic-Obstacles-5x5-v0")
    assert tools_of(env)[0].parameters["properties"]["action"]["enum"] == ["left", "right", "forward"]
    assert not has_expert(env)
    assert system_prompt(make("minigrid:BabyAI-GoToObj-v0", plain=True)).endswith("pickup, drop, toggle, done.")
