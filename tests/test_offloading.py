"""Models whose layers' weights wait elsewhere: they say what they said, and hold no layer meanwhile."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

from agentopd.errors import ConfigError
from agentopd.freezing import frozen
from agentopd.models import FrozenModel, ModelConfig, NewModel
from agentopd.offloading import offloaded, on_device, waiting
from agentopd.teachers.identity import of_model

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
EXPERTS: dict[str, Any] = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
CONFIGS = [
    LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True),
    Qwen3Config(**SIZES, **HEADS),
    Qwen3MoeConfig(**SIZES, **HEADS, **EXPERTS),
    GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None),
]
IDS_B_T = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(0))


def made(config: PretrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto: Any = AutoModelForCausalLM
        found: PreTrainedModel = auto.from_config(config).eval()
    return found


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS_B_T).logits
    return found


def drawn(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.generate(IDS_B_T, max_new_tokens=4, do_sample=False, pad_token_id=0)
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_it_says_what_it_said(config: Any) -> None:
    model = frozen(made(config))
    said, wrote, known = logits(model), drawn(model), of_model(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    found = on_device(model, FrozenModel(model="of-a-folder", offload=True), CPU)
    assert found is model
    for _ in range(2):
        assert torch.equal(logits(found), said)
        assert torch.equal(drawn(found), wrote)
    assert of_model(found) == known
    held = waiting(found)
    assert all(torch.equal(held[name], weights[name]) for name in held)
    assert {name for name, value in found.named_parameters() if value.is_meta} == held.keys()


def test_embeddings_and_head_stay_and_a_layer_is_there_while_it_is_read() -> None:
    model = offloaded(frozen(made(CONFIGS[1])), CPU)
    here = {name for name, value in model.named_parameters() if not value.is_meta}
    assert here == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    layer: Any = model.get_submodule("model.layers.1")
    seen: list[bool] = []
    projection = layer.mlp.up_proj
    own = projection._old_forward

    def forward(hidden_B_T_H: torch.Tensor) -> Any:
        seen.extend([layer.mlp.up_proj.weight.is_meta, layer.mlp.down_proj.weight.is_meta])
        return own(hidden_B_T_H)

    projection._old_forward = forward
    logits(model)
    assert seen == [False, True]
    assert layer.mlp.up_proj.weight.is_meta


def test_a_model_that_names_no_layers_is_refused() -> None:
    model = made(CONFIGS[0])
    model._no_split_modules = None
    with pytest.raises(ConfigError, match=r"^offload: LlamaForCausalLM does not say which of its modules are layers"):
        offloaded(model, CPU)


def test_what_is_not_asked_for_stays_whole() -> None:
    for wanted in (ModelConfig(new=NewModel()), FrozenModel(new=NewModel())):
        assert not waiting(on_device(made(CONFIGS[0]), wanted, CPU))
