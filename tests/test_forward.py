from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import model_of, sequences
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from agentopd.forward import SHORTEST, common_prefix, hidden_states, read_each
from agentopd.models import head_of


def gradients(model: nn.Module, hidden: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Values, and the gradient of a sum that treats all positions differently."""
    parameters = [p for name, p in model.named_parameters() if p.requires_grad and "lm_head" not in name]
    loss = sum(((h * torch.arange(1, len(h) + 1)[:, None]).sin().sum() for h in hidden), torch.zeros(()))
    return [h.detach() for h in hidden], list(torch.autograd.grad(loss, parameters))


ROUNDING = 1e-6
"""Norms work in float32 whatever the dtype, and their gradients are summed over rows in another order."""

Values = tuple[list[Tensor], list[Tensor]]


def assert_alike(values: Values, reference: Values, tolerance: float) -> None:
    for ours, theirs in zip(values[0] + values[1], reference[0] + reference[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("architecture", "dtype", "tolerance"),
    [
        ("llama", torch.float32, 1e-5),
        ("llama", torch.float64, 1e-10),
        ("qwen3", torch.float32, 3e-5),  # processors sum in other orders, which its norms of queries and keys magnify
        ("qwen3", torch.float64, 1e-10),
        ("gemma3", torch.float32, 1e-5),
        ("gemma3", torch.float64, 1e-5),  # its norms sum the gradients of their weights in float32 whatever the dtype
    ],
)
def test_padded_packed_and_single_sequences_agree(architecture: str, dtype: torch.dtype, tolerance: float) -> None:
    model, each = model_of(architecture, dtype), sequences()
    lengths = [len(ids) for ids in each]
    padded_B_T_H = hidden_states(model, nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=0))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packed_T_H = hidden_states(model, torch.cat(each)[None], positions)[0]
    single = gradients(model, [hidden_states(model, ids[None])[0] for ids in each])
    padded = gradients(model, [h[:length] for h, length in zip(padded_B_T_H, lengths, strict=True)])
    packed = gradients(model, list(torch.split(packed_T_H, lengths)))
    assert_alike(padded, single, tolerance)
    assert_alike(packed, single, tolerance)


def test_only_the_last_hidden_states_are_kept() -> None:
    model, kept = model_of("llama"), []
    model.register_forward_hook(lambda module, args, output: kept.append(output))
    hidden_states(model, torch.tensor([[5, 6, 7]]))
    assert [h is None for h in kept[0].hidden_states] == [True, False]
    assert kept[0].logits.shape[1] == 1
    assert kept[0].past_key_values is None


def alike(common: int, own: tuple[int, ...]) -> list[Tensor]:
    """Sequences that begin with the same tokens and then differ, of ``common + own[b]`` tokens."""
    generator = torch.Generator().manual_seed(2)
    shared = torch.randint(3, 50, (common,), generator=generator)
    starts = torch.arange(3, 3 + len(own))
    return [
        torch.cat([shared, start[None], torch.randint(3, 50, (more - 1,), generator=generator)])
        for start, more in zip(starts, own, strict=True)
    ]


def padded(each: list[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=0)


def read(model: nn.Module, each: list[Tensor]) -> tuple[Values, list[tuple[int, ...]]]:
    """What one pass over all of them gives, and the shapes that the model read."""
    shapes: list[tuple[int, ...]] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    hidden_B_T_H = hidden_states(model, padded(each))
    handle.remove()
    return gradients(model, [h[: len(ids)] for h, ids in zip(hidden_B_T_H, each, strict=True)]), shapes


def one_by_one(model: nn.Module, each: list[Tensor]) -> Values:
    return gradients(model, [hidden_states(model, ids[None])[0] for ids in each])


@settings(max_examples=20, deadline=None)
@given(
    architecture=st.sampled_from(["llama", "qwen3", "cohere", "granite"]),
    common=st.integers(SHORTEST, SHORTEST + 20),
    own=st.lists(st.integers(1, 10), min_size=2, max_size=4).map(tuple),
)
def test_what_all_rows_begin_with_is_read_once_and_changes_nothing(
    architecture: str, common: int, own: tuple[int, ...]
) -> None:
    model, each = model_of(architecture), alike(common, own)
    values, shapes = read(model, each)
    assert_alike(values, one_by_one(model, each), ROUNDING)
    assert shapes == [(1, common), (len(own), max(own))]


@pytest.mark.parametrize(
    ("common", "own"),
    [(SHORTEST - 1, (4, 2)), (1, (3, 3)), (SHORTEST + 9, (6,))],
)
def test_a_short_beginning_and_a_single_row_are_read_as_they_are(common: int, own: tuple[int, ...]) -> None:
    model, each = model_of("llama"), alike(common, own)
    assert read(model, each)[1] == [(len(own), common + max(own))]


class Attended(TorchFunctionMode):
    """Whether each attention had a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            self.masks.append((kwargs or {}).get("attn_mask") is not None)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "cohere", "granite"])
def test_rows_much_longer_than_their_beginning_are_read_without_a_mask(architecture: str) -> None:
    model, each = model_of(architecture), alike(SHORTEST, (4 * SHORTEST, 3 * SHORTEST))
    with Attended() as attended:
        values, shapes = read(model, each)
    assert shapes == [(1, SHORTEST), (2, 4 * SHORTEST)]
    assert not any(attended.masks)
    assert len(attended.masks) == 2 * model.config.num_hidden_layers
    assert_alike(values, one_by_one(model, each), ROUNDING)


def test_equal_rows_keep_one_token_of_their_own() -> None:
    model, [ids] = model_of("llama"), alike(40, (3,))
    values, shapes = read(model, [ids, ids])
    assert_alike(values, one_by_one(model, [ids, ids]), ROUNDING)
    assert shapes == [(1, 42), (2, 1)]


def test_a_row_that_ends_early_bounds_what_is_common() -> None:
    model, [longer, other] = model_of("llama"), alike(45, (3, 2))
    values, shapes = read(model, [longer, other, longer[:36]])
    assert_alike(values, one_by_one(model, [longer, other, longer[:36]]), ROUNDING)
    assert shapes == [(1, 36), (3, 12)]


def test_sliding_layers_read_each_row() -> None:
    model, each = model_of("gemma3"), alike(40, (3, 2))
    values, shapes = read(model, each)
    assert_alike(values, one_by_one(model, each), ROUNDING)
    assert shapes == [(2, 43)]


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_depend_on_the_length_read_each_row(kind: str) -> None:
    each, own = alike(40, (30, 20)), {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 50}
    model = model_of("llama", rope_parameters={**rope, **(own if kind == "longrope" else {})})
    assert read(model, each)[1] == [(2, 70)]


def test_a_model_that_keeps_no_cache_reads_each_row() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = OpenAIGPTConfig(vocab_size=50, n_positions=64, n_embd=16, n_layer=2, n_head=2)
        model = OpenAIGPTLMHeadModel(config)  # type: ignore[no-untyped-call]
    nn.Module.eval(model)
    each = alike(40, (3, 2))
    with torch.no_grad():
        found_B_T_H = hidden_states(model, padded(each))
        torch.testing.assert_close(found_B_T_H, read_each(model, padded(each)))


def test_an_adapter_that_looks_for_its_invocation_reads_each_row() -> None:
    settings: dict[str, Any] = {"task_type": "CAUSAL_LM", "alora_invocation_tokens": [5, 6]}
    adapted: Any = get_peft_model(model_of("llama"), LoraConfig(target_modules=["q_proj"], **settings))
    assert read(adapted, alike(40, (3, 2)))[1] == [(2, 43)]


def test_checkpointed_layers_read_each_row_in_training() -> None:
    model, each = model_of("llama"), alike(40, (3, 2))
    model.gradient_checkpointing_enable()
    assert read(model.train(), each)[1] == [(2, 43)]
    assert len(read(nn.Module.eval(model), each)[1]) == 2


def test_an_adapter_learns_the_same() -> None:
    adapted: Any = get_peft_model(
        model_of("llama"), LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    )
    each = alike(40, (3, 5, 2))
    values, shapes = read(adapted, each)
    assert_alike(values, one_by_one(adapted, each), ROUNDING)
    assert shapes == [(1, 40), (3, 5)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2, 3], [1, 2, 3]], 2), ([[1, 2], [2, 2]], 0), ([[7], [7]], 0)],
)
def test_common_prefix_by_hand(rows: list[list[int]], expected: int) -> None:
    assert common_prefix(torch.tensor(rows)) == expected


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_wrapped_by_ddp_the_wrappers_forward_runs(process_group: None) -> None:
    model = model_of("llama")
    wrapped, seen = DistributedDataParallel(model), []
    wrapped.register_forward_hook(lambda *_: seen.append(True))
    ids_B_T = sequences()[0][None]
    torch.testing.assert_close(hidden_states(wrapped, ids_B_T), hidden_states(model, ids_B_T))
    assert seen == [True]
    hidden_states(wrapped, padded(alike(40, (3, 2))))
    assert seen == [True, True]  # one forward for each backward
    assert head_of(wrapped).weight_V_H is model.lm_head.weight
