"""Adapters: put around a model, merged, and read from a folder together with their base."""

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from agentopd.adapters import adapted, merged
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.errors import ConfigError
from agentopd.forward import hidden_states
from agentopd.models import (
    ModelConfig,
    NewModel,
    config_of,
    head_of,
    load_model,
    load_tokenizer,
    new_model,
    outline_of,
)

TOKENIZER = build_tokenizer(["the price of a pear"], 400)
TINY = NewModel(hidden_size=16, layers=2, heads=2, intermediate_size=24, max_positions=64)
IDS_B_T = torch.tensor([[5, 6, 7]])
ALL = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def _lora(**settings: Any) -> LoraConfig:
    given: dict[str, Any] = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    return LoraConfig(**given)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    new_model(TINY, TOKENIZER, 0).save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """A trained adapter: it changes what the model says."""
    wrapped = adapted(
        load_model(ModelConfig(model=str(base))),
        _lora(init_lora_weights=False, target_modules=["q_proj", "up_proj"]),
        1,
    )
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_all_linear_leaves_the_output_head_out() -> None:
    tied: Any = new_model(TINY, TOKENIZER, 0)
    untied: Any = LlamaForCausalLM(LlamaConfig(**{**tied.config.to_dict(), "tie_word_embeddings": False}))  # type: ignore[no-untyped-call]
    given = _lora()
    for plain in (tied, untied):
        wrapped = adapted(plain, given, seed=0)
        trained = {name.split(".")[-4] for name, p in wrapped.named_parameters() if p.requires_grad}
        assert trained == ALL
        assert head_of(wrapped).weight_V_H is plain.get_output_embeddings().weight
    assert given.target_modules == "all-linear"  # what a person gave stays as it was


def test_an_adapters_weights_depend_on_its_seed_alone() -> None:
    state = torch.get_rng_state()

    def drawn(seed: int) -> list[torch.Tensor]:
        model = adapted(new_model(TINY, TOKENIZER, 0), _lora(), seed)
        return [p for name, p in model.named_parameters() if "lora_A" in name]

    first = drawn(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert all(map(torch.equal, first, drawn(3)))
    assert not any(map(torch.equal, first, drawn(4)))


def test_a_merged_model_says_what_the_adapter_said_and_is_plain() -> None:
    model = new_model(TINY, TOKENIZER, 0)
    before = hidden_states(model, IDS_B_T)
    wrapped = adapted(model, _lora(init_lora_weights=False), seed=1)
    said = hidden_states(wrapped, IDS_B_T)
    assert not torch.allclose(said, before)
    plain = merged(wrapped)
    assert plain is model
    assert not any("lora" in name for name in plain.state_dict())
    assert all(p.requires_grad for p in plain.parameters())
    torch.testing.assert_close(hidden_states(plain, IDS_B_T), said)
    assert merged(plain) is plain


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            _lora(target_modules=["nosuch"]),
            r"^peft_config: no such adapter for LlamaForCausalLM: .*Target modules .*nosuch",
        ),
        (
            _lora(target_modules=["q_proj", "k_prj"]),
            r"it has no module called 'k_prj'; give target_modules that the model has",
        ),
        (
            peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
            "PromptTuningConfig puts made-up tokens",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapted(new_model(TINY, TOKENIZER, 0), config, seed=0)


def test_a_model_inside_an_adapter_gets_no_second_one() -> None:
    wrapped = adapted(new_model(TINY, TOKENIZER, 0), _lora(), seed=0)
    with pytest.raises(ConfigError, match=r"inside an adapter already; .*merge_and_unload"):
        adapted(wrapped, _lora(), seed=0)


def test_the_folder_of_an_adapter_is_its_base_with_the_adapter_merged(base: Path, adapter: Path) -> None:
    loaded = load_model(ModelConfig(model=str(adapter), attention="eager"))
    wrapped = PeftModel.from_pretrained(load_model(ModelConfig(model=str(base))), adapter)
    torch.testing.assert_close(hidden_states(loaded, IDS_B_T), hidden_states(wrapped, IDS_B_T))
    assert not isinstance(loaded, PeftModel)
    assert loaded.config._attn_implementation == "eager"
    assert config_of(str(adapter)).max_position_embeddings == 64
    assert load_tokenizer(str(adapter)).get_vocab() == TOKENIZER.get_vocab()  # its base's
    build_tokenizer(["another"], 300).save_pretrained(str(adapter))
    assert len(load_tokenizer(str(adapter))) < len(TOKENIZER)  # its own


@pytest.mark.parametrize("other", [{"layers": 1}, {"layers": 3}, {"hidden_size": 8}])
def test_an_adapter_of_another_base_is_refused(other: dict[str, int], base: Path, adapter: Path) -> None:
    new_model(TINY.model_copy(update=other), TOKENIZER, 0).save_pretrained(base)
    with pytest.raises(
        ConfigError, match=r"adapter': the adapter does not fit its base .*base'.*base_model_name_or_path in"
    ):
        load_model(ModelConfig(model=str(adapter)))


def test_an_adapter_whose_base_is_not_known_is_refused(base: Path, adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    shutil.rmtree(base)
    for load in (lambda n: load_model(ModelConfig(model=n)), load_tokenizer, config_of):
        with pytest.raises(ConfigError, match=r"base': there is no such folder"):
            load(str(adapter))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="is an adapter that names no base model; put base_model_name_or_path into"):
        load_model(ModelConfig(model=str(adapter)))
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"adapter_config\.json cannot be read: JSONDecodeError"):
        load_model(ModelConfig(model=str(adapter)))


def test_adapters_that_name_each_other_as_base_are_refused(adapter: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    for one, base in ((adapter, other), (other, adapter), (other, other)):
        file = one / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(base)}))
        for load in (lambda n: load_model(ModelConfig(model=n)), load_tokenizer, config_of):
            if base != other or one == other:
                with pytest.raises(ConfigError, match=r"^model='.*leads back to the adapter .*put the model it was"):
                    load(str(one))


def test_what_does_not_fit_is_named(base: Path, adapter: Path) -> None:
    new_model(TINY.model_copy(update={"hidden_size": 8}), TOKENIZER, 0).save_pretrained(base)
    with pytest.raises(ConfigError, match=r"size mismatch for .*q_proj"):
        load_model(ModelConfig(model=str(adapter)))
    with pytest.raises(ConfigError, match=r"Target module LlamaModel is not supported"):
        adapted(new_model(TINY, TOKENIZER, 0), _lora(target_modules=".*"), seed=0)


def test_an_adapter_is_tried_without_weights(base: Path, adapter: Path) -> None:
    outline = outline_of(ModelConfig(model=str(adapter)), TOKENIZER)
    assert {p.device.type for p in outline.parameters()} == {"meta"}
    assert head_of(outline).weight_V_H.shape == (len(TOKENIZER), 16)
    wrapped = adapted(outline, _lora(r=60000), 0, weightless=True)
    assert {p.device.type for p in wrapped.parameters()} == {"meta"}
    new_model(TINY.model_copy(update={"layers": 1}), TOKENIZER, 0).save_pretrained(base)
    with pytest.raises(ConfigError, match="the adapter does not fit its base"):
        outline_of(ModelConfig(model=str(adapter)), TOKENIZER)


def test_a_damaged_adapter_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"adapter': the adapter does not fit its base .*: SafetensorError"):
        load_model(ModelConfig(model=str(adapter)))


def test_a_model_with_an_adapter_beside_it_is_refused(base: Path, adapter: Path) -> None:
    for file in adapter.iterdir():
        shutil.copy(file, base)
    with pytest.raises(ConfigError, match="holds an adapter beside a model"):
        load_model(ModelConfig(model=str(base)))


@pytest.mark.parametrize(
    "settings", [{"target_modules": ["q_proj", "embed_tokens"]}, {"modules_to_save": ["embed_tokens"]}]
)
def test_embeddings_that_are_the_head_too_take_no_adapter(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="its input embeddings are its output head too, which no adapter may change"):
        adapted(new_model(TINY, TOKENIZER, 0), _lora(**settings), 0)
