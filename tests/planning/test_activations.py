"""What autograd really keeps of a forward pass, beside what is counted."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from agentopd.forward import hidden_states
from agentopd.planning.activations import Numbers, behind, of_token
from agentopd.planning.shape import shape_of
from agentopd.training.checks.checkpointed import Checkpoints

KINDS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
TOKENS = 100
DTYPES = {2: torch.bfloat16, 4: torch.float32}


def model_of(kind: str, dtype: torch.dtype, layers: int) -> Any:
    config, model = KINDS[kind]
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    }
    return model(config(**sizes, vocab_size=50, num_hidden_layers=layers)).to(dtype).train()


def kept(model: nn.Module, ids_B_T: Tensor, autocast: bool = False) -> int:
    """Bytes of the storages that one forward pass leaves to the backward pass, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)  # or another may come to lie in its place
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    context = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with context, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden_states(model, ids_B_T)
    return sum(found.values())


def of_real_token(kind: str, layers: int, numbers: Numbers, checkpoints: Checkpoints | None) -> float:
    """Bytes kept for one token more: a difference leaves out what does not grow, such as the copies of weights that autocast makes."""
    model = model_of(kind, DTYPES[numbers.weight], layers)
    if checkpoints is not None:
        named = {"every_n_layers": checkpoints.every, "offload": checkpoints.offload}
        model.gradient_checkpointing_enable({"use_reentrant": False}, **named)
    if numbers.rank is not None:
        model = get_peft_model(model, LoraConfig(r=numbers.rank, target_modules="all-linear"))
        model.enable_input_require_grads()
    more, less = (kept(model, torch.zeros(1, n * TOKENS, dtype=torch.long), numbers.autocast) for n in (2, 1))
    return (more - less) / TOKENS


CASES = [Numbers(weight, autocast, rank) for weight in DTYPES for autocast in (False, True) for rank in (None, 4)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpoints", [None, Checkpoints(), Checkpoints(offload=True), Checkpoints(every=2)], ids=str)
@pytest.mark.parametrize("numbers", CASES, ids=str)
def test_a_layer_keeps_what_is_counted(
    kind: str, numbers: Numbers, checkpoints: Checkpoints | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "is_available", lambda: False)  # or torch pins memory, which takes a card
    real = [of_real_token(kind, layers, numbers, checkpoints) for layers in (2, 4)]
    counted = [of_token(shape_of(model_of(kind, torch.float32, n)), numbers, checkpoints) for n in (2, 4)]
    assert real[1] - real[0] == counted[1] - counted[0]
    assert real[0] <= counted[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [2, 4])
def test_a_whole_model_keeps_what_is_counted(kind: str, weight: int) -> None:
    counted = of_token(shape_of(model_of(kind, torch.float32, 2)), Numbers(weight), None)
    assert of_real_token(kind, 2, Numbers(weight), None) == counted


def test_checkpoints_keep_what_passes_between_layers_and_one_layer_anew() -> None:
    one, four = (shape_of(model_of("llama", torch.float32, layers)) for layers in (1, 4))
    numbers = Numbers(4)
    assert of_token(four, numbers, Checkpoints()) == of_token(one, numbers, None) + 4 * 64 * 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "common", "own"), [(4, 64, 48), (4, 64, 191), (4, 64, 192), (2, 32, 300)])
def test_rows_behind_a_beginning_that_they_share(kind: str, rows: int, common: int, own: int) -> None:
    ids_B_T = torch.arange(common + own).repeat(rows, 1) % 50
    ids_B_T[:, common] = torch.arange(rows)
    one, three = (model_of(kind, torch.float32, layers) for layers in (1, 3))
    shapes = [shape_of(model) for model in (one, three)]
    counted = [
        (common + rows * own) * of_token(shape, Numbers(4), None)
        + rows * behind(shape, Numbers(4), common + own, common)
        for shape in shapes
    ]
    real = [kept(model, ids_B_T) for model in (one, three)]
    assert real[1] - real[0] == counted[1] - counted[0]
