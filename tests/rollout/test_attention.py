"""Attention over shared heads against transformers' own."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from agentopd.rollout.attention import shared_heads


def masked_logits(key_heads: int, dtype: torch.dtype) -> torch.Tensor:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        initializer_range=0.3,
    )
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    mask_B_T = torch.ones(3, 20, dtype=torch.bool)
    mask_B_T[1, :7] = False
    with torch.inference_mode():
        logits_B_T_V: torch.Tensor = model.to(dtype)(torch.randint(11, (3, 20)), attention_mask=mask_B_T).logits
    return logits_B_T_V[mask_B_T]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_results_are_the_same_bit_by_bit(key_heads: int, dtype: torch.dtype) -> None:
    usual = masked_logits(key_heads, dtype)
    with shared_heads():
        assert torch.equal(masked_logits(key_heads, dtype), usual)


def test_keys_and_values_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.sdpa_attention.repeat_kv", None)
    with pytest.raises(TypeError):
        masked_logits(2, torch.float32)
    with shared_heads():
        masked_logits(2, torch.float32)


def test_everything_is_afterwards_as_it_was() -> None:
    with shared_heads(), shared_heads():
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not sdpa_attention_forward
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward


def test_an_attention_of_ones_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(*arguments: Any, **options: Any) -> Any:
        return sdpa_attention_forward(*arguments, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", own)
    with shared_heads():
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is own
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is own
