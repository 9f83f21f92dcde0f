"""A turn costs its own tokens: what an episode processes grows linearly with its turns, through the whole of ``collect``."""

from itertools import pairwise

import training_cases as cases

from agentopd.chat import Chat
from agentopd.rollout import Rollout, TransformersPolicy, collect
from agentopd.rollout.policy import Assignment
from agentopd.types import Key, Task, Trajectory

TURNS = 16


def _played(turns: int) -> Trajectory:
    settings = Rollout(max_new_tokens=4, max_length=640, max_turns=turns)
    chat = Chat(cases.tokenizer())
    policy = TransformersPolicy(cases.model(0), chat.end_of_turn, settings)
    task = Task("training_envs:tests/Chatty-v0", seed=0)
    (trajectory,) = collect(
        [Assignment(task, Key("run", 0, 0), "student", 7, "fresh")], {"student": policy}, chat, settings
    )
    assert len(trajectory.turns) == turns
    return trajectory


def test_prompt_tokens_processed_are_linear_in_turns_from_1_to_16() -> None:
    for turns in range(1, TURNS + 1):
        trajectory = _played(turns)
        (segment,) = trajectory.segments
        assert sum(turn.prefilled for turn in trajectory.turns) <= len(segment)  # every token at most once
        for before, after in pairwise(trajectory.turns):
            # what came back, and the last token of the turn before, which nothing has processed yet
            assert after.prefilled <= after.start - before.stop + 1
    without_cache = sum(turn.start for turn in trajectory.turns)
    assert without_cache > 5 * len(segment)
