"""What is counted of a model is what the real one holds."""

from typing import Any

import pytest
import torch
from model_cases import model_of
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from agentopd.config import load_config
from agentopd.models import ModelConfig, new_model
from agentopd.planning import outlines
from agentopd.planning.outlines import Outlines, known
from agentopd.planning.setup import Held, setup_of
from agentopd.planning.shape import shape_of
from agentopd.training.run.stages import tokenizer_of

MODELS = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("qwen3", {}),
    ("qwen3", {"tie_word_embeddings": True}),
]


def bytes_of(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def held(model: PreTrainedModel) -> Held:
    return Held("student", shape_of(model), model.dtype.itemsize)


def test_a_shape_by_hand() -> None:
    shape = shape_of(model_of("qwen3"))
    # two layers: queries 16 x 16, keys and values 16 x 8, output 16 x 16, and three matrices of 16 x 24
    assert shape.body == 2 * (256 + 2 * 128 + 256 + 3 * 384)
    # embeddings and head of 50 ids; two norms of 16 and two of 8 a layer, one at the end
    assert shape.parameters == shape.body + 2 * 50 * 16 + 2 * (2 * 16 + 2 * 8) + 16
    assert (shape.head, shape.queries, shape.cached) == (800, 16, 8)
    assert shape.normed_heads
    assert not shape_of(model_of("llama")).normed_heads


@pytest.mark.parametrize(("architecture", "more"), MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_those_of_the_real_model(architecture: str, more: dict[str, Any], dtype: torch.dtype) -> None:
    model = model_of(architecture, dtype, **more)
    assert held(model).bytes == bytes_of(model)
    assert held(model).shape.parameters == model.num_parameters()


@pytest.mark.parametrize(("architecture", "more"), MODELS)
def test_caches_are_those_of_the_real_model(architecture: str, more: dict[str, Any]) -> None:
    model = model_of(architecture, torch.float32, **more)
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.zeros(3, 7, dtype=torch.long), past_key_values=cache)
    layers: Any = cache.layers
    assert held(model).cached * 3 * 7 == sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def test_the_quickstarts_models_are_those_that_a_run_makes(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = load_config("quickstart", [f"stages.cache={tmp_path_factory.mktemp('cache')}"])
    tokenizer = tokenizer_of(config, lambda _: None)
    setup, notes = setup_of(config, lambda: tokenizer)
    assert config.student.new is not None
    real = new_model(config.student.new, tokenizer, 0)
    assert setup.student.bytes == bytes_of(real) == setup.trained.gradients
    assert [one.bytes for one in setup.teachers] == [bytes_of(real)]
    assert notes == []


def test_experts_count_as_often_as_a_token_meets_them() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = nn.Embedding(10, 4)
            self.experts = nn.Parameter(torch.zeros(8, 4, 6))
            self.head = nn.Linear(4, 10, bias=False)
            self.config = model_of("llama").config
            self.config.num_experts, self.config.num_experts_per_tok = 8, 2
            self.all_tied_weights_keys: dict[str, str] = {}
            self._keep_in_fp32_modules = None

        def get_input_embeddings(self) -> nn.Module:
            return self.embeddings

        def get_output_embeddings(self) -> nn.Module:
            return self.head

    shape = shape_of(Small())  # type: ignore[arg-type]
    assert shape.parameters == 40 + 192 + 40
    assert shape.body == 192 * 2 // 8


PUBLISHED = {
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
}


class Unreachable:
    def model_info(self, *arguments: Any, **more: Any) -> None:
        raise ConnectionError


def test_shapes_that_are_known_without_a_hub_have_as_many_weights_as_is_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outlines, "HfApi", Unreachable)
    assert known().keys() == PUBLISHED.keys()
    found = Outlines(lambda: pytest.fail("a tokenizer was asked for"))
    models = {name: found.of(ModelConfig(model=name)) for name in PUBLISHED}
    assert {name: model.num_parameters() for name, model in models.items()} == PUBLISHED
    assert {model.dtype for model in models.values()} == {torch.float32}
    assert found.notes[0] == "Qwen/Qwen3-0.6B: the hub cannot be reached, so its shape is the one that agentopd knows"
