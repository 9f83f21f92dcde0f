"""A random model plays a chatty environment through the real chat."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from agentopd.chat import Chat
from agentopd.env import TextSpace
from agentopd.models import build_tokenizer
from agentopd.rollout.collect import collect
from agentopd.rollout.engine import TransformersPolicy
from agentopd.rollout.policy import Assignment, Request, Rollout
from agentopd.types import Key, Task, Trajectory

TALK = "tests/Talk-v0"


class Talk(gymnasium.Env[str, str]):
    """Answers anything with a few words, and never ends."""

    observation_space = TextSpace()
    action_space = TextSpace()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "Hello" + " hello" * int(self.np_random.integers(9)), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "I see" + " and so on" * int(self.np_random.integers(4)), 0.0, False, False, {}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    gymnasium.register(TALK, entry_point=f"{__name__}:Talk")
    yield
    del gymnasium.registry[TALK]


@cache
def chat() -> Chat:
    return Chat(build_tokenizer(["Hello hello", "I see and so on"], vocab_size=400))


@cache
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.2,
    )
    llama: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    return cast(PreTrainedModel, llama)


def play(order: Sequence[int], settings: Rollout) -> dict[int, Trajectory]:
    policy = TransformersPolicy(model(), chat().end_of_turn, settings)
    assignments = [Assignment(Task(TALK, seed=i), Key("run", 0, i), "student", seed=i, source="fresh") for i in order]
    return {t.key.index: t for t in collect(assignments, {"student": policy}, chat(), settings)}


def test_every_end_of_turn_stops_a_turn() -> None:
    request = Request(0, (1, 2, 3), seed=0, max_new_tokens=9, script=None)
    (free,) = TransformersPolicy(model(), [], Rollout()).act([request])
    assert len(free.tokens) == 9
    for ends in ([free.tokens[4]], [10**6, free.tokens[4]]):
        (ended,) = TransformersPolicy(model(), ends, Rollout()).act([request])
        assert ended.tokens == free.tokens[: free.tokens.index(free.tokens[4]) + 1]


def test_invariant_6_trajectories_do_not_depend_on_the_batch() -> None:
    settings = Rollout(max_turns=4, max_new_tokens=7)
    alone = play(range(8), settings.model_copy(update={"concurrency": 1}))
    for order, concurrency in ((range(8), 3), ([5, 2, 7, 0, 1, 6, 3, 4], 8)):
        together = play(order, settings.model_copy(update={"concurrency": concurrency}))
        for index, trajectory in together.items():
            for segment, expected in zip(trajectory.segments, alone[index].segments, strict=True):
                np.testing.assert_array_equal(segment.tokens_T, expected.tokens_T)
                np.testing.assert_allclose(segment.logprob_T, expected.logprob_T, atol=1e-4)


def test_prompt_tokens_processed_are_linear_in_turns() -> None:
    [trajectory] = play([0], Rollout(max_turns=16, max_new_tokens=8)).values()
    turns = trajectory.turns
    assert len(turns) == 16
    assert turns[0].prefilled == turns[0].start
    for before, turn in pairwise(turns):
        assert turn.prefilled == turn.start - before.stop + 1  # what came back, and the last generated token
    assert len(trajectory.segments) == 1


def test_behaviour_logprobs_of_trajectories_equal_one_forward() -> None:
    trajectories = play(range(3), Rollout(max_turns=3, max_new_tokens=9))
    for trajectory in trajectories.values():
        [segment] = trajectory.segments
        tokens_1_T = torch.from_numpy(segment.tokens_T.astype(np.int64))[None]
        with torch.no_grad():
            logprob_T_V = torch.log_softmax(model()(tokens_1_T, use_cache=False).logits[0], dim=-1)
        taken_logprob_T = logprob_T_V[:-1].gather(1, tokens_1_T[0, 1:, None])[:, 0].numpy()
        action_T = segment.trainable_T[1:]
        assert action_T.sum() == sum(turn.stop - turn.start for turn in trajectory.turns)
        np.testing.assert_allclose(segment.logprob_T[1:][action_T], taken_logprob_T[action_T], atol=1e-4)
