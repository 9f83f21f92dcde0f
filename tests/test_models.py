import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import ARCHITECTURES, model_of, sequences
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from torch import nn

from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.errors import ConfigError
from agentopd.forward import hidden_states
from agentopd.models import (
    ModelConfig,
    NewModel,
    check_head,
    head_of,
    load_model,
    load_tokenizer,
    new_model,
    outline_of,
    positions_of,
)
from agentopd.objective.head import Head

TOKENIZER = build_tokenizer(["the price of a pear"], 400)
TINY = NewModel(hidden_size=16, layers=2, heads=2, intermediate_size=24, max_positions=64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_gives_the_models_logits(architecture: str) -> None:
    model = model_of(architecture)
    ids_B_T = torch.stack([sequences()[0]] * 2)
    head = head_of(model)
    torch.testing.assert_close(head.logits(hidden_states(model, ids_B_T)), model(input_ids=ids_B_T).logits)
    plain = nn.functional.linear(hidden_states(model, ids_B_T), head.weight_V_H)
    assert (architecture in ("llama", "qwen3")) == bool(torch.equal(plain, head.logits(hidden_states(model, ids_B_T))))
    check_head(model)


def test_head_by_hand() -> None:
    hidden_N_H = torch.tensor([[1.0, 2.0]])
    head = Head(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([1.0, -2.0]), scale=0.5, softcap=4.0)
    expected = 4.0 * torch.tanh(torch.tensor([[1.0, 2.0]]) / 4.0)  # (1 + 1) / 2 and (6 - 2) / 2
    torch.testing.assert_close(head.logits(hidden_N_H), expected)
    weight, bias = torch.zeros(2, 2, requires_grad=True), torch.tensor([8.0, 0.0], requires_grad=True)
    leaf = replace(head, weight_V_H=weight, bias_V=bias).logits(hidden_N_H)
    torch.testing.assert_close(leaf.detach(), torch.tensor([[4.0 * torch.tanh(torch.tensor(1.0)), 0.0]]))
    torch.autograd.backward(leaf.sum())
    assert weight.grad is not None
    assert weight.grad[1].tolist() == [0.5, 1.0]


def test_the_heads_tensors_are_the_models_own() -> None:
    model = new_model(TINY, TOKENIZER, 0)
    hidden = hidden_states(model, torch.tensor([[5, 6, 7]]))
    torch.autograd.backward(head_of(model).logits(hidden).sum())
    assert all(p.grad is not None for p in model.parameters())


def test_wrapped_by_peft_the_adapter_counts() -> None:
    ids_B_T = sequences()[0][None]
    plain = hidden_states(model_of("llama"), ids_B_T)
    adapted: Any = get_peft_model(
        model_of("llama"), LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    hidden = hidden_states(adapted, ids_B_T)
    assert not torch.allclose(hidden, plain)
    torch.testing.assert_close(head_of(adapted).logits(hidden), adapted(input_ids=ids_B_T).logits)
    with adapted.disable_adapter():
        torch.testing.assert_close(hidden_states(adapted, ids_B_T), plain)


def test_an_adapter_on_the_head_is_refused() -> None:
    adapted: Any = get_peft_model(model_of("llama"), LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(
        ConfigError, match=r"is a peft\..*\.Linear, not one plain torch\.nn\.Linear; leave lm_head out of adapters"
    ):
        head_of(adapted)


def test_logits_that_no_head_explains_are_refused() -> None:
    model = model_of("llama")
    model.lm_head.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(ConfigError, match="the logits of LlamaForCausalLM are not"):
        check_head(model)


def test_weights_that_are_nan_are_refused() -> None:
    model = model_of("llama")
    model.lm_head.weight.data[0, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"^model=.*: its logits are NaN, .* try dtype: float32"):
        check_head(model)


def test_new_weights_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first = new_model(TINY, TOKENIZER, 7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again, other = new_model(TINY, TOKENIZER, 7), new_model(TINY, TOKENIZER, 8)
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert {p.dtype for p in first.parameters()} == {torch.float32}


def test_a_new_model_fits_its_tokenizer() -> None:
    model = new_model(TINY, TOKENIZER, 0)
    assert head_of(model).weight_V_H.shape == (len(TOKENIZER), 16)
    assert model.config.eos_token_id == Chat(TOKENIZER).end_of_turn
    assert model.config._attn_implementation == "sdpa"
    assert not model.training


def test_a_new_model_has_the_type_and_attention_that_are_asked_for() -> None:
    model = new_model(TINY, TOKENIZER, 0, "bfloat16", "eager")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"
    for drawn, rounded in zip(new_model(TINY, TOKENIZER, 0).parameters(), model.parameters(), strict=True):
        assert torch.equal(drawn.bfloat16(), rounded)
    with pytest.raises(ConfigError, match=r"attention='flashy': ValueError: .*flashy"):
        new_model(TINY, TOKENIZER, 0, "float32", "flashy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    new_model(TINY, TOKENIZER, 0).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(str(tmp_path))
    return tmp_path


def test_a_saved_model_is_loaded_as_it_was(folder: Path) -> None:
    loaded = load_model(ModelConfig(model=str(folder)))
    original = dict(new_model(TINY, TOKENIZER, 0).named_parameters())
    assert all(torch.equal(p, original[name]) for name, p in loaded.named_parameters())
    assert not loaded.training
    half = load_model(ModelConfig(model=str(folder), dtype="bfloat16", attention="eager"))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.config._attn_implementation == "eager"
    text = "the price 17 <|end|>"
    assert load_tokenizer(str(folder)).encode(text) == TOKENIZER.encode(text)


def test_folders_that_hold_no_model_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ConfigError, match=r"the folder has no config\.json"):
        load_model(ModelConfig(model=str(empty)))
    with pytest.raises(ConfigError, match=r"the folder has no tokenizer_config\.json"):
        load_tokenizer(str(empty))
    with pytest.raises(ConfigError, match="there is no such folder"):
        load_model(ModelConfig(model="./nowhere"))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="no tokenizer that can be loaded"):
        load_tokenizer(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"cannot be loaded: .*no file named model\.safetensors"):
        load_model(ModelConfig(model=str(folder)))


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match=r"lacks weights .* such as 'model\.layers\.2"):
        load_model(ModelConfig(model=str(folder)))


def test_an_outline_is_what_loading_would_find(folder: Path) -> None:
    found = outline_of(ModelConfig(model=str(folder)), TOKENIZER)
    assert {p.device.type for p in found.parameters()} == {"meta"}
    assert positions_of(found.config) == 64
    assert head_of(outline_of(ModelConfig(new=TINY), TOKENIZER)).weight_V_H.shape == (len(TOKENIZER), 16)
    for attention in ("nosuch", "flash_attention_2"):
        with pytest.raises(ConfigError, match=rf"^attention='{attention}': .*set attention to sdpa or eager"):
            outline_of(ModelConfig(model=str(folder), attention=attention), TOKENIZER)
    config, weights = (folder / "config.json").read_text(), folder / "model.safetensors"
    for change, message in (
        ({"num_hidden_layers": 3}, r"lacks weights .* such as 'model\.layers\.2"),
        ({"intermediate_size": 30}, r"of other shapes than .*mlp.*: \[.*24.*\] instead of \[.*30.*\]"),
    ):
        (folder / "config.json").write_text(json.dumps(json.loads(config) | change))
        with pytest.raises(ConfigError, match=message):
            outline_of(ModelConfig(model=str(folder)), TOKENIZER)
        with pytest.raises(ConfigError, match=message):
            load_model(ModelConfig(model=str(folder)))
    (folder / "config.json").write_text(config)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"^model=.* cannot be loaded: SafetensorError: .*; restore what is wrong"):
        outline_of(ModelConfig(model=str(folder)), TOKENIZER)
    weights.unlink()
    with pytest.raises(ConfigError, match=r"cannot be loaded: .*no file named model\.safetensors"):
        outline_of(ModelConfig(model=str(folder)), TOKENIZER)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"exactly one of model .* got neither"):
        ModelConfig()
    with pytest.raises(ValidationError, match="got both"):
        ModelConfig(model="a", new=TINY)
    with pytest.raises(ValidationError, match="hidden_size=18 must be an even multiple of heads=4"):
        NewModel(hidden_size=18, heads=4)
    with pytest.raises(ConfigError, match="use new_model"):
        load_model(ModelConfig(new=TINY))
