from collections import Counter

import gymnasium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.env import TextEnv
from agentopd.env.splits import SEEDS_PER_SPLIT, split_of
from agentopd.errors import ConfigError
from agentopd.isolation.session import Session
from agentopd.rollout.assignments import assign
from agentopd.rollout.looking import look_at
from agentopd.rollout.tasks import EnvConfig, TaskStream

ENVS = [
    EnvConfig(id="a/A-v0", weight=3.0, kwargs={"size": 2}, options={"level": 1}, tags=("easy",)),
    EnvConfig(id="b/B-v0"),
]


def test_a_task_is_a_pure_function_of_its_index() -> None:
    stream = TaskStream(ENVS, seed=1, split="train")
    backwards = {i: stream[i] for i in reversed(range(50))}
    again = TaskStream(ENVS, seed=1, split="train")
    assert [again[i] for i in range(50)] == [backwards[i] for i in range(50)]
    assert TaskStream(ENVS, seed=2, split="train")[0] != stream[0]
    assert len({stream[i].id for i in range(50)}) == 50


def test_environments_are_drawn_by_weight_with_their_settings() -> None:
    tasks = [TaskStream(ENVS, seed=0, split="train")[i] for i in range(2000)]
    counts = Counter(task.env_id for task in tasks)
    assert counts["a/A-v0"] / len(tasks) == pytest.approx(0.75, abs=0.03)
    first = next(task for task in tasks if task.env_id == "a/A-v0")
    assert (first.kwargs, first.options, first.tags, first.split) == ({"size": 2}, {"level": 1}, ("easy",), "train")


@settings(max_examples=50)
@given(index=st.integers(0, 10**6), seed=st.integers(0, 10**6))
def test_splits_have_disjoint_seeds(index: int, seed: int) -> None:
    for place, split in enumerate(["train", "validation", "evaluation", "stages"]):
        task = TaskStream(ENVS, seed, split)[index]
        assert task.split == split
        assert task.seed // SEEDS_PER_SPLIT == place
        assert split_of(task.seed) == split
        assert task.seed < 2**31  # environments may keep a seed in a signed 32-bit number


def test_bad_streams_are_refused() -> None:
    with pytest.raises(ConfigError, match="envs is empty"):
        TaskStream([], 0, "train")
    with pytest.raises(ConfigError, match="did you mean 'evaluation'"):
        TaskStream(ENVS, 0, "evalution")


def test_assignments_form_groups_and_draw_actors_by_share() -> None:
    stream = TaskStream(ENVS, seed=0, split="train")
    made = assign(stream, range(500), "fresh", {"student": 3.0, "teacher": 1.0}, 4, run="r", step=2, seed=5, first=10)
    assert [a.task for a in made[:4]] == [stream[0]] * 4
    assert [a.key.index for a in made] == list(range(10, 2010))
    assert {a.source for a in made} == {"fresh"}
    assert Counter(a.actor for a in made)["teacher"] / len(made) == pytest.approx(0.25, abs=0.03)
    assert len({a.seed for a in made}) == len(made)
    assert made == assign(stream, range(500), "fresh", {"student": 3.0, "teacher": 1.0}, 4, "r", 2, 5, 10)


def test_actors_of_a_task_are_divided_by_share() -> None:
    stream = TaskStream(ENVS, 0, "train")
    made = assign(stream, range(3), "fresh", {"expert": 1.0, "student": 3.0}, 4, "r", 0, 0, divided=True)
    assert [one.actor for one in made] == ["expert", "student", "student", "student"] * 3


def test_steps_and_sources_draw_different_seeds() -> None:
    stream = TaskStream(ENVS, seed=0, split="train")
    seeds = [
        assign(stream, [0], source, {"student": 1.0}, 1, "r", step, 5)[0].seed
        for source in ("fresh", "frozen")
        for step in (0, 1)
    ]
    assert len(set(seeds)) == 4


def test_actors_without_a_share_are_refused() -> None:
    with pytest.raises(ConfigError, match="one must be positive"):
        assign(TaskStream(ENVS, 0, "train"), [0], "fresh", {"student": 0.0}, 1, "r", 0, 0)


class Greedy(TextEnv):
    """Changes what it was given."""

    def __init__(self, bag: list[str]) -> None:
        self.bag = bag
        self.bag.append("made")

    def start(self) -> str:
        self.bag.append("started")
        self.options["inner"]["seen"] = self.options["inner"].get("seen", 0) + 1
        return f"{self.bag} {self.options}"


def test_what_an_environment_does_to_its_settings_reaches_no_other_episode() -> None:
    gymnasium.register("me/Greedy-v0", entry_point=lambda **kwargs: Greedy(**kwargs))
    env = EnvConfig(id="me/Greedy-v0", kwargs={"bag": []}, options={"inner": {}})
    task = TaskStream([env], seed=0, split="train")[0]
    name = task.id
    look_at(env, lambda made: made, time_limit=5.0)
    said = [Session(task, advice=False, needs_expert=False).reset().messages for _ in range(2)]
    assert said[0] == said[1]
    assert (task.kwargs, task.options) == ({"bag": []}, {"inner": {}})
    assert task.id == name
