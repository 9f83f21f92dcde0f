"""Models in four bits: what they say, what is trained of them, what is made of them, and what is refused."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from model_cases import model_of
from peft import LoraConfig
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from agentopd import quantization
from agentopd.adapters import adapted, is_wrapped, merged, merged_copy
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.cluster.shipping import packed
from agentopd.errors import ConfigError
from agentopd.forward import SHORTEST, hidden_states, read_each
from agentopd.freezing import Follower, Thinned, initial
from agentopd.models import ModelConfig, NewModel, head_of, load_model, new_model, outline_of
from agentopd.planning.setup import Held
from agentopd.planning.shape import shape_of
from agentopd.quantization import is_packed, is_quantized, unpack
from agentopd.rollout.engines import VllmEngine
from agentopd.rollout.policy import Rollout
from agentopd.rollout.vllm import VllmPolicy
from agentopd.teachers.identity import of_model

TOKENIZER = build_tokenizer(["the price of a pear"], 400)
SIZES = NewModel(hidden_size=64, layers=2, heads=2, intermediate_size=128, max_positions=128)
IDS_B_T = torch.randint(0, 250, (3, SHORTEST + 16), generator=torch.Generator().manual_seed(0))
IDS_B_T[:, : SHORTEST + 4] = IDS_B_T[0, : SHORTEST + 4]  # they begin alike
PULL_H = torch.randn(64, generator=torch.Generator().manual_seed(1))
"""Of hidden states, whose norm is always the same."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base")
    new_model(SIZES, TOKENIZER, 0).save_pretrained(place)
    TOKENIZER.save_pretrained(str(place))
    return place


def in_four_bits(folder: Path, **settings: Any) -> PreTrainedModel:
    return load_model(ModelConfig(model=str(folder), quantization="nf4", **settings))


def around(base: PreTrainedModel, seed: int = 1) -> Any:
    """A model inside an adapter that changes what it says."""
    return adapted(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False), seed)


def said(model: nn.Module) -> Tensor:
    logits: Tensor = model(input_ids=IDS_B_T, use_cache=False).logits
    return logits.detach().float()


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_body_is_packed_and_the_rest_is_as_it_was(dtype: Any, tied: bool, tmp_path: Path) -> None:
    plain = model_of("qwen3", torch.float32, tie_word_embeddings=tied)
    plain.save_pretrained(tmp_path)
    model = in_four_bits(tmp_path, dtype=dtype)
    wanted = getattr(torch, dtype)
    assert model.dtype == wanted == head_of(model).weight_V_H.dtype
    assert hidden_states(model, IDS_B_T % 50).dtype == wanted
    layers = [name for name, module in model.named_modules() if is_packed(module)]
    assert len(layers) == 2 * 7
    assert all(isinstance(model.get_submodule(name), Linear4bit) for name in layers)
    torch.testing.assert_close(head_of(model).weight_V_H, head_of(plain).weight_V_H.to(wanted))
    assert not model.training
    assert model.num_parameters() == plain.num_parameters()


@pytest.mark.parametrize("acted", [False, True])
def test_it_says_what_its_unpacked_weights_say_whether_it_acts_or_learns(acted: bool, folder: Path) -> None:
    """bitsandbytes has for some CPUs another way of acting, which changes the weights for good: it must not be taken."""
    model = in_four_bits(folder)
    plain = unpack(copy.deepcopy(model))
    assert not is_quantized(plain)
    with torch.no_grad():
        mine, theirs = said(model), said(plain)
    assert close(mine, theirs)
    assert not close(mine, said(load_model(ModelConfig(model=str(folder)))), 1e-3)  # four bits are not nothing
    if acted:
        model.train()
    found = []
    for one in (model, plain):
        embedded = one.get_input_embeddings()(IDS_B_T).detach().requires_grad_()
        one(inputs_embeds=embedded).logits.square().sum().backward()
        found.append(embedded.grad)
    assert close(*found)


def test_the_gradient_is_in_the_adapter_alone_and_that_of_unpacked_weights(folder: Path) -> None:
    mine = around(in_four_bits(folder))
    theirs = around(unpack(in_four_bits(folder)))
    read: list[Callable[[Any], Tensor]] = [
        lambda model: hidden_states(model, IDS_B_T),  # what all rows begin with once
        lambda model: read_each(model, IDS_B_T),
    ]
    found = []
    for model, way in ((mine, read[0]), (mine, read[1]), (theirs, read[1])):
        model.zero_grad()
        (loss := (way(model) * PULL_H).sum()).backward()  # type: ignore[no-untyped-call]
        found.append((loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    for loss, gradients in found[:2]:
        assert close(loss, found[2][0])
        assert gradients.keys() == found[2][1].keys()
        assert all("lora" in name for name in gradients)
        assert all(close(gradients[name], one, 1e-4) for name, one in found[2][1].items())


def test_a_step_of_the_optimiser_moves_the_adapter_alone(folder: Path) -> None:
    model = around(in_four_bits(folder))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    said_before = said(model)
    (hidden_states(model, IDS_B_T) * PULL_H).sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "lora" in name}
    assert not close(said(model), said_before, 1e-3)


def test_without_its_adapter_it_is_what_was_loaded(folder: Path) -> None:
    base = in_four_bits(folder)
    start = said(base)
    wrapped = around(base)
    assert not close(said(wrapped), start, 1e-3)
    assert torch.equal(said(initial(wrapped)), start)


def test_a_follower_shares_what_is_packed_and_follows_the_rest(folder: Path) -> None:
    model = around(in_four_bits(folder))
    follower = Follower(model)
    own, theirs = dict(follower.model.named_parameters()), dict(model.named_parameters())
    assert {name for name in own if own[name] is theirs[name]} == {name for name in own if "lora" not in name}
    before = said(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(1.0)
    assert torch.equal(said(follower.model), before)
    assert torch.equal(said(follower.follow(model)), said(model))
    assert not close(said(model), before, 1e-3)


def test_merged_it_is_plain_and_says_the_same(folder: Path, tmp_path: Path) -> None:
    model = around(in_four_bits(folder))
    before = said(model)
    plain = merged_copy(model)
    assert type(plain) is type(load_model(ModelConfig(model=str(folder))))
    assert close(said(plain), before)
    assert torch.equal(said(model), before)  # as it was
    assert is_quantized(model)
    plain.save_pretrained(tmp_path)
    again = load_model(ModelConfig(model=str(tmp_path)))
    assert not is_quantized(again)
    assert close(said(again), before)
    assert close(said(merged(model)), before)


def test_merged_into_what_it_was_made_of_it_is_that_and_the_change(folder: Path) -> None:
    whole = load_model(ModelConfig(model=str(folder)))
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    model = around(in_four_bits(folder))
    layers = {name: one for name, one in model.named_modules() if hasattr(one, "get_delta_weight")}
    changes = {
        name.removeprefix("base_model.model.") + ".weight": one.get_delta_weight("default")
        for name, one in layers.items()
    }
    made = merged_copy(model, whole)
    for name, value in made.state_dict().items():
        torch.testing.assert_close(value, start[name] + changes.get(name, 0.0))
    assert len(changes) == 2 * 7


def test_an_adapters_folder_stays_beside_its_base(folder: Path, tmp_path: Path) -> None:
    model = around(in_four_bits(folder))
    model.save_pretrained(tmp_path)
    again = in_four_bits(tmp_path)
    assert is_wrapped(again)
    assert is_quantized(again)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert torch.equal(said(again), said(model))
    head_of(again)


def test_an_outline_needs_neither_weights_nor_what_packs_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "is_bitsandbytes_available", lambda: False)
    outline = outline_of(ModelConfig(model=str(folder), quantization="nf4"), TOKENIZER)
    assert {parameter.device.type for parameter in outline.parameters()} == {"meta"}
    assert head_of(outline).weight_V_H.shape == (len(TOKENIZER), 64)
    with pytest.raises(
        ConfigError, match=r'^quantization=nf4: it takes the package bitsandbytes; pip install "agentopd\[qlora\]"'
    ):
        in_four_bits(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"new": {}}, "quantization=nf4: weights from random numbers are not packed; leave it out"),
        ({"model": "a.gguf"}, r"quantization=nf4: model='a\.gguf' is a GGUF file.*give the model's own folder"),
        ({"model": "a", "dtype": "float64"}, "quantization=nf4: dtype=float64 cannot be packed; set dtype: float32"),
        ({"model": "a", "quantization": "int3"}, "nf4"),
    ],
)
def test_what_cannot_be_packed_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        ModelConfig(**({"quantization": "nf4"} | settings))


def test_what_is_packed_is_not_packed_again(folder: Path, tmp_path: Path) -> None:
    in_four_bits(folder).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(str(tmp_path))
    looks: list[Callable[[ModelConfig], Any]] = [load_model, lambda config: outline_of(config, TOKENIZER)]
    for look in looks:
        with pytest.raises(ConfigError, match=r"^quantization=nf4: the weights of model=.* are quantised already"):
            look(ModelConfig(model=str(tmp_path), quantization="nf4"))
    assert torch.equal(said(load_model(ModelConfig(model=str(tmp_path)))), said(in_four_bits(folder)))


def test_transposed_layers_are_refused(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    with pytest.raises(ConfigError, match=r"^quantization: the layers of GPT2LMHeadModel are .*leave quantization out"):
        in_four_bits(tmp_path)


def test_it_is_neither_sent_to_actors_nor_served_by_vllm(folder: Path) -> None:
    model = around(in_four_bits(folder))
    with pytest.raises(ConfigError, match=r"^cluster\.rollout: .*four bits.*leave it out"):
        packed(model, "cluster.rollout")
    with pytest.raises(
        ConfigError, match=r"^rollout\.engine\.kind=vllm: .*would be another model's.*kind: transformers"
    ):
        VllmPolicy(model, [0], Rollout(), VllmEngine())


def test_dropout_of_a_packed_model_is_that_of_its_unpacked_weights(folder: Path) -> None:
    model = in_four_bits(folder)
    mine, theirs = (said(Thinned(one, 0.25, "seed")) for one in (model, unpack(copy.deepcopy(model))))
    assert close(mine, theirs)
    assert not close(mine, said(model), 1e-3)


def test_a_packed_model_is_known_by_its_weights(folder: Path) -> None:
    one, other, plain = (in_four_bits(folder), in_four_bits(folder), load_model(ModelConfig(model=str(folder))))
    assert of_model(one) == of_model(other)
    assert of_model(one) not in (None, of_model(plain))


def test_what_is_planned_is_what_is_held(folder: Path) -> None:
    """Beside its share of weights and scales, each layer holds tables of 272 numbers and a mean, which are not counted."""
    model = in_four_bits(folder)
    real = sum(parameter.nbytes for parameter in model.parameters())
    layers: list[Any] = [module for module in model.modules() if is_packed(module)]
    for layer in layers:
        state = layer.weight.quant_state
        real += state.absmax.nbytes + state.state2.absmax.nbytes
    shape = shape_of(outline_of(ModelConfig(model=str(folder), quantization="nf4"), TOKENIZER))
    assert shape.packable == sum(layer.in_features * layer.out_features for layer in layers)
    planned = Held("student", shape, 4, quantized=True)
    assert planned.bytes == pytest.approx(real, rel=1e-3)
    assert planned.bytes < Held("student", shape, 4).bytes / 2
    assert pytest.approx(4.127, abs=1e-3) == 8 * quantization.BYTES


def test_bitsandbytes_says_nothing_of_a_kernel_that_is_not_used() -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")

    def passes(text: str) -> bool:
        return bool(logger.filter(logging.LogRecord(logger.name, logging.WARNING, "", 0, text, (), None)))

    assert not passes("Failed to load CPU gemm_4bit_forward from kernels-community: %s. ")
    assert passes("anything else")
