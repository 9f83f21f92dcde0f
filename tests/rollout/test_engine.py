"""The transformers engine against a plain loop without a cache."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from agentopd.errors import ConfigError, PolicyError
from agentopd.rollout.engine import TransformersPolicy
from agentopd.rollout.policy import Generation, Request, Rollout
from agentopd.rollout.sampling import draw, processed, uniforms

VOCAB, END = 40, 3


def llama(dtype: torch.dtype = torch.float64, attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    config: Any = LlamaConfig(  # type: ignore[call-arg]
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        attn_implementation=attention,
        initializer_range=0.3,
    )
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    return cast(PreTrainedModel, model.to(dtype))


def gemma(dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        initializer_range=0.3,
    )
    model: Any = Gemma3ForCausalLM(config)
    return cast(PreTrainedModel, model.to(dtype))


def plain_loop(model: PreTrainedModel, request: Request, settings: Rollout) -> Generation:
    """One row, the whole context again for every token."""
    tokens, logprobs = list(request.tokens), []
    numbers = uniforms(request.seed, request.max_new_tokens)
    for number in numbers:
        with torch.no_grad():
            logits_1_V = model(torch.tensor([tokens]), use_cache=False).logits[:, -1]
        logprob_1_V = processed(logits_1_V, settings)
        token = int(draw(logprob_1_V, torch.tensor([number], dtype=torch.float64)))
        tokens.append(token)
        logprobs.append(float(logprob_1_V[0, token]))
        if token == END:
            break
    return Generation(tokens[len(request.tokens) :], logprobs, prefilled=0)


class Conversation:
    """An episode that answers with random context tokens of random length."""

    def __init__(self, episode: int, first: int) -> None:
        self.episode = episode
        self.random = np.random.default_rng(episode)
        self.tokens = self.say(first)
        self.turn = 0

    def say(self, count: int) -> list[int]:
        return [int(token) for token in self.random.integers(4, VOCAB, count)]

    def request(self) -> Request:
        return Request(
            self.episode, list(self.tokens), 1000 * self.episode + self.turn, max_new_tokens=3 + self.episode % 5
        )

    def take(self, generation: Generation) -> None:
        self.tokens += generation.tokens + self.say(int(self.random.integers(1, 12)))
        self.turn += 1


def assert_same(engine: Sequence[Generation], loop: Sequence[Generation], tolerance: float) -> None:
    assert [g.tokens for g in engine] == [g.tokens for g in loop]
    for a, b in zip(engine, loop, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=0, atol=tolerance)


def play(model: PreTrainedModel, settings: Rollout, tolerance: float) -> list[int]:
    """Six turns of six conversations that join, leave and pause; returns what was prefilled, and lengths of new contexts."""
    policy = TransformersPolicy(model, END, settings)
    conversations = {e: Conversation(e, first=5 + 9 * e) for e in range(6)}
    present = [[0, 1, 2], [2, 0, 1], [0, 2, 3, 4], [4, 1, 3, 0, 5], [5, 3], [1, 0, 3, 5]]
    prefilled = []
    for turn, episodes in enumerate(present):
        requests = [conversations[e].request() for e in episodes]
        generations = policy.act(requests)
        assert_same(generations, [plain_loop(model, request, settings) for request in requests], tolerance)
        prefilled += [g.prefilled for g in generations]
        for episode, generation in zip(episodes, generations, strict=True):
            conversations[episode].take(generation)
        if turn == 3:
            policy.release([4])
    return prefilled


SETTINGS = [Rollout(temperature=0.0), Rollout(), Rollout(temperature=0.7, top_p=0.8, top_k=12)]


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "sampled", "nucleus"])
def test_cached_turns_equal_a_loop_without_cache(settings: Rollout) -> None:
    prefilled = play(llama(), settings, tolerance=1e-12)
    assert prefilled[:3] == [5, 14, 23]
    assert max(prefilled[3:6]) <= 12  # the last generated token and what came back


def test_eager_attention_equals_the_loop_too() -> None:
    play(llama(attention="eager"), Rollout(), tolerance=1e-5)  # its softmax is in float32


def test_a_sliding_window_model_prefills_whole_and_is_right() -> None:
    model = gemma()
    conversation = Conversation(0, first=9)
    policy = TransformersPolicy(model, END, Rollout())
    for _ in range(3):
        request = conversation.request()
        generation = policy.act([request, Request(7, [5, 6, 7], 1, 4)])[0]
        assert generation.prefilled == len(request.tokens)
        assert_same([generation], [plain_loop(model, request, Rollout())], 1e-12)
        conversation.take(generation)
    play(model, Rollout(), tolerance=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_invariant_6_tokens_do_not_depend_on_the_batch(dtype: torch.dtype) -> None:
    model, settings = llama(dtype), Rollout(temperature=0.9)

    def episodes(size: int, order: Sequence[int]) -> dict[int, list[int]]:
        policy = TransformersPolicy(model, END, settings)
        conversations = {e: Conversation(e, first=4 + 3 * e) for e in range(8)}
        for _ in range(3):
            for start in range(0, 8, size):
                chosen = [conversations[e] for e in order[start : start + size]]
                for conversation, generation in zip(chosen, policy.act([c.request() for c in chosen]), strict=True):
                    conversation.take(generation)
        return {e: c.tokens for e, c in conversations.items()}

    alone = episodes(1, range(8))
    assert episodes(3, range(8)) == alone
    assert episodes(8, [5, 2, 7, 0, 1, 6, 3, 4]) == alone


def test_behaviour_logprobs_equal_those_of_one_padded_forward() -> None:
    model, settings = llama(torch.float32), Rollout(temperature=0.8, top_k=20)
    policy = TransformersPolicy(model, END, settings)
    conversations = [Conversation(e, first=6 + 5 * e) for e in range(4)]
    spans: list[list[tuple[int, Generation]]] = [[] for _ in conversations]
    for _ in range(3):
        starts = [len(c.tokens) for c in conversations]
        for b, generation in enumerate(policy.act([c.request() for c in conversations])):
            spans[b].append((starts[b], generation))
            conversations[b].take(generation)
    width = max(len(c.tokens) for c in conversations)
    tokens_B_T = torch.tensor([c.tokens + [0] * (width - len(c.tokens)) for c in conversations])
    with torch.no_grad():
        logits_B_T_V = model(tokens_B_T, use_cache=False).logits
    for b, turns in enumerate(spans):
        for start, generation in turns:
            logprob_N_V = processed(logits_B_T_V[b, start - 1 : start - 1 + len(generation.tokens)], settings)
            expected_N = logprob_N_V.gather(1, torch.tensor(generation.tokens)[:, None])[:, 0]
            np.testing.assert_allclose(generation.logprobs, expected_N.numpy(), atol=1e-4)


def test_prompt_tokens_processed_are_linear_in_turns() -> None:
    policy = TransformersPolicy(llama(torch.float32), END, Rollout())
    tokens, processed_so_far, totals = [5] * 20, 0, []
    for turn in range(16):
        [generation] = policy.act([Request(0, tokens, turn, max_new_tokens=4)])
        processed_so_far += generation.prefilled
        totals.append((turn, len(tokens), processed_so_far))
        tokens = tokens + generation.tokens + [7] * 6
    assert [total for _, _, total in totals] == [20 + 7 * turn for turn, _, _ in totals]


def test_refresh_drops_every_cache_and_counts() -> None:
    model = llama()
    policy = TransformersPolicy(model, END, Rollout())
    conversation = Conversation(1, first=8)
    conversation.take(policy.act([conversation.request()])[0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    policy.update(model, 1)
    request = conversation.request()
    [generation] = policy.act([request])
    assert policy.version == 1
    assert generation.prefilled == len(request.tokens)
    assert_same([generation], [plain_loop(model, request, Rollout())], 1e-12)


def test_a_rewritten_past_is_processed_from_where_it_differs() -> None:
    model = llama()
    policy = TransformersPolicy(model, END, Rollout())
    first = list(range(4, 24))
    policy.act([Request(0, first, 0, 4)])
    rewritten = [*first[:7], 30, *first[8:]]
    request = Request(0, rewritten, 1, 4)
    [generation] = policy.act([request])
    assert generation.prefilled == len(rewritten) - 7
    assert_same([generation], [plain_loop(model, request, Rollout())], 1e-12)


def test_scripts_are_played_and_the_cache_catches_up() -> None:
    model = llama()
    policy = TransformersPolicy(model, END, Rollout())
    tokens = list(range(4, 14))
    [first, other] = policy.act([Request(0, tokens, 0, 4, script=(9, 8, END)), Request(1, tokens, 5, 4)])
    assert first == Generation([9, 8, END], [0.0] * 3, prefilled=0)
    assert len(other.tokens) > 0
    request = Request(0, [*tokens, 9, 8, END, 6], 1, 4)
    [generation] = policy.act([request])
    assert generation.prefilled == 14
    assert_same([generation], [plain_loop(model, request, Rollout())], 1e-12)


def test_a_newcomer_with_a_long_context_is_right() -> None:
    model = llama()
    policy = TransformersPolicy(model, END, Rollout())
    old = [Conversation(e, first=6) for e in range(4)]
    for conversation, generation in zip(old, policy.act([c.request() for c in old]), strict=True):
        conversation.take(generation)
    requests = [*(c.request() for c in old), Conversation(9, first=90).request()]
    generations = policy.act(requests)
    assert generations[-1].prefilled == 90
    assert_same(generations, [plain_loop(model, r, Rollout()) for r in requests], 1e-12)


def test_what_newcomers_begin_with_is_processed_once() -> None:
    model, settings = llama(), Rollout()
    policy = TransformersPolicy(model, END, settings)
    random = np.random.default_rng(0)
    opening = [int(token) for token in random.integers(4, VOCAB, 40)]

    def asked(first: int, lengths: Sequence[int]) -> list[Request]:
        tails = ([int(token) for token in random.integers(4, VOCAB, length)] for length in lengths)
        return [Request(first + i, [*opening, 4 + i, *tail], first + i, 6) for i, tail in enumerate(tails)]

    for requests, prefilled in (
        (asked(0, [3, 9, 0, 5]), [44, 10, 1, 6]),
        (asked(4, [2]), [3]),  # later newcomers find it too
        (asked(5, [7, 1]), [8, 2]),
    ):
        found = policy.act(requests)
        assert_same(found, [plain_loop(model, request, settings) for request in requests], 1e-9)
        assert [generation.prefilled for generation in found] == prefilled
    policy.update(model, 1)
    assert [generation.prefilled for generation in policy.act(asked(7, [3, 3]))] == [44, 4]
    policy.release([7])
    assert [generation.prefilled for generation in policy.act(asked(9, [1]))] == [2]
    policy.release([8, 9])  # nobody lives
    assert [generation.prefilled for generation in policy.act(asked(10, [1, 1]))] == [42, 2]


def test_newcomers_that_begin_alike_by_chance_share_nothing() -> None:
    policy = TransformersPolicy(llama(), END, Rollout())
    requests = [Request(i, [5, 6, 7, 8 + i, *range(9, 30)], i, 2) for i in range(3)]
    assert [generation.prefilled for generation in policy.act(requests)] == [25, 25, 25]


def test_modes_return_to_what_they_were() -> None:
    model = llama()
    model.train()
    model.model.layers[1].eval()
    TransformersPolicy(model, END, Rollout()).act([Request(0, [4, 5], 0, 2)])
    assert model.training
    assert not model.model.layers[1].training
    assert model.model.layers[0].mlp.training


def test_no_requests_give_no_generations() -> None:
    assert TransformersPolicy(llama(), END, Rollout()).act([]) == []


def test_impossible_requests_are_refused() -> None:
    policy = TransformersPolicy(llama(), END, Rollout())
    with pytest.raises(PolicyError, match="asks twice"):
        policy.act([Request(0, [4], 0, 1), Request(0, [4], 0, 1)])
    with pytest.raises(PolicyError, match="both must be positive"):
        policy.act([Request(0, [], 0, 1)])


def test_broken_weights_are_a_policy_error() -> None:
    model = llama()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(PolicyError, match="not finite"):
        TransformersPolicy(model, END, Rollout()).act([Request(0, [4, 5], 0, 2)])


def test_unsupported_attention_is_refused() -> None:
    model = llama()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ConfigError, match="set attention=sdpa"):
        TransformersPolicy(model, END, Rollout())
