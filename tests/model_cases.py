"""Small random models of several architectures."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from agentopd.models import head_of

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.5,
}
ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {"head_dim": 8, "sliding_window": 3, "final_logit_softcapping": 2.0},
    ),
    "cohere": (CohereConfig, CohereForCausalLM, {"logit_scale": 0.25}),
    "granite": (GraniteConfig, GraniteForCausalLM, {"logits_scaling": 8.0}),
}


def model_of(architecture: str, dtype: torch.dtype = torch.float64, **more: Any) -> PreTrainedModel:
    config, kind, own = ARCHITECTURES[architecture]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = kind(config(**SIZES, **own, **more))
    model.to(dtype).eval()  # type: ignore[arg-type]
    return model


def save_small(kind: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, labels: int = 1, seed: int = 0) -> Path:
    """A folder with a random model of a Llama ``kind``, a classifier for instance, and its tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    config.num_labels = labels
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sequences() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 50, (length,), generator=generator) for length in (5, 1, 7)]


def widened(model: PreTrainedModel, rows: int) -> PreTrainedModel:
    """With ``rows`` more, which are likely: nothing of them may reach a student."""
    model.resize_token_embeddings(model.config.vocab_size + rows, mean_resizing=False)
    with torch.no_grad():
        head_of(model).weight_V_H[-rows:] = 1.0
    return model
