"""The log-probabilities of generation against those of the learner's forward: with an adapter, over turns, in batches of any size."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from agentopd.forward import hidden_states
from agentopd.models import head_of
from agentopd.objective.chunked import statistics
from agentopd.rollout.engine import TransformersPolicy
from agentopd.rollout.policy import Request, Rollout

VOCAB, END, TEMPERATURE, TURNS = 40, 3, 0.8, 4
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "initializer_range": 0.3,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
}


@cache
def adapted(architecture: str) -> PreTrainedModel:
    """With LoRA in every linear layer but the head, whose weights are random and large enough to count."""
    config, kind, own = ARCHITECTURES[architecture]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        model: Any = get_peft_model(kind(config(**SIZES, **own)), lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    return model  # type: ignore[no-any-return]


def played(model: PreTrainedModel, batch: int) -> list[tuple[list[int], list[int], list[float]]]:
    """Contexts of unequal length over turns. A row: its tokens, which of them were generated, and their log-probabilities."""
    policy = TransformersPolicy(model, END, Rollout(temperature=TEMPERATURE))
    random = np.random.default_rng(batch)
    tokens_B = [random.integers(4, VOCAB, 5 + (11 * b) % 29).tolist() for b in range(batch)]
    position_B: list[list[int]] = [[] for _ in range(batch)]
    logprob_B: list[list[float]] = [[] for _ in range(batch)]
    for turn in range(TURNS):
        present = [b for b in range(batch) if batch == 1 or (b + turn) % 4]  # some pause, and their caches wait
        requests = [Request(b, list(tokens_B[b]), 100 * b + turn, 1 + (b + turn) % 6) for b in present]
        for b, generation in zip(present, policy.act(requests), strict=True):
            position_B[b] += range(len(tokens_B[b]), len(tokens_B[b]) + len(generation.tokens))
            logprob_B[b] += generation.logprobs
            tokens_B[b] += generation.tokens + random.integers(4, VOCAB, random.integers(1, 12)).tolist()
    return list(zip(tokens_B, position_B, logprob_B, strict=True))


@pytest.mark.parametrize("batch", [1, 2, 7, 32])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_behaviour_logprobs_are_those_the_learner_recomputes(architecture: str, batch: int) -> None:
    model = adapted(architecture)
    rows = played(model, batch)
    padded_B_T = torch.zeros(batch, max(len(tokens) for tokens, _, _ in rows), dtype=torch.long)
    for b, (tokens, _, _) in enumerate(rows):
        padded_B_T[b, : len(tokens)] = torch.tensor(tokens)
    sample_A = torch.tensor([b for b, (_, positions, _) in enumerate(rows) for _ in positions])
    position_A = torch.tensor([position for _, positions, _ in rows for position in positions])
    with torch.no_grad():
        hidden_A_H = hidden_states(model, padded_B_T)[sample_A, position_A - 1]
        token_A = padded_B_T[sample_A, position_A]
        recomputed_A, _ = statistics(hidden_A_H, head_of(model), token_A, TEMPERATURE)
        with model.disable_adapter():  # type: ignore[operator]
            without = hidden_states(model, padded_B_T)[sample_A, position_A - 1]
    assert not torch.allclose(hidden_A_H, without, atol=0.1)
    recorded_A = [logprob for _, _, logprobs in rows for logprob in logprobs]
    assert len(recorded_A) >= batch * (TURNS - 1)
    np.testing.assert_allclose(recorded_A, recomputed_A.numpy(), rtol=0, atol=1e-4)
