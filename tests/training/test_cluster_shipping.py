"""What is sent to actors arrives as it was, and its weights lie where the arrays lie."""

import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases
from peft import LoraConfig
from torch import Tensor, nn

from agentopd.adapters import adapted
from agentopd.chat import Chat
from agentopd.cluster.shipping import Packed, packed, unpacked
from agentopd.errors import ConfigError
from agentopd.types import Message


def sent(value: object) -> Packed:
    """As another process gets it: arrays that cannot be written to."""
    made: Packed = pickle.loads(pickle.dumps(packed(value)))
    for array in made.arrays:
        array.flags.writeable = False
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4)])
def test_a_tensor_arrives_as_it_was(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = torch.arange(15).reshape(3, 5).to(dtype).T[: shape[0]] if len(shape) == 2 else torch.tensor(1).to(dtype)
    found: Tensor = unpacked(sent({"one": value}))["one"]
    assert found.dtype == dtype
    torch.testing.assert_close(found, value)


def test_weights_lie_where_the_arrays_lie_and_buffers_do_not() -> None:
    model = cases.model(0)
    given = packed(model)
    found = unpacked(given)
    places = [(array.ctypes.data, array.ctypes.data + array.nbytes) for array in given.arrays]

    def lies_there(one: Tensor) -> bool:
        return any(begin <= one.data_ptr() < end for begin, end in places)

    assert all(lies_there(one) for one in found.parameters())
    assert not any(lies_there(one) for one in found.buffers())
    assert sum(array.nbytes for array in given.arrays) >= sum(p.nbytes for p in model.parameters())
    assert len(given.data) < 20_000


def test_a_model_that_was_trained_in_mixed_precision_and_looked_into_arrives_plain() -> None:
    from accelerate import Accelerator

    model: Any = cases.model(0)
    tokens = torch.arange(12)[None]
    plain = model(input_ids=tokens).logits
    model(input_ids=tokens, output_hidden_states=True)  # which leaves hooks behind
    Accelerator(cpu=True, mixed_precision="bf16").prepare_model(model, evaluation_mode=True)
    found: Any = unpacked(sent(model))
    assert "forward" in vars(model)
    torch.testing.assert_close(found(input_ids=tokens).logits, plain, rtol=0, atol=0)
    assert len(found(input_ids=tokens, output_hidden_states=True).hidden_states) == 2


def test_an_adapter_arrives_with_what_it_trains() -> None:
    model: Any = adapted(cases.model(0), LoraConfig(r=2, target_modules="all-linear"), 0)
    found: Any = unpacked(sent(model))
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    assert [name for name, one in found.named_parameters() if one.requires_grad] == trained
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(found(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=0, atol=0)


def test_parameters_that_are_one_stay_one() -> None:
    a, b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    b.weight = a.weight
    given = packed([a, b])
    its_a, its_b = unpacked(given)
    assert its_a.weight is its_b.weight
    assert len(given.arrays) == 1
    np.testing.assert_array_equal(its_a.weight.detach().numpy(), a.weight.detach().numpy())


def test_what_cannot_be_sent_is_said_with_its_key() -> None:
    with pytest.raises(
        ConfigError, match=r"^cluster\.rollout: it cannot be sent to another process \(TypeError: cannot pickle"
    ):
        packed(threading.Lock(), "cluster.rollout")


def test_a_chat_writes_the_same_in_another_process() -> None:
    chat = Chat(cases.tokenizer(), {"one": 1}, "hermes", "template")
    found: Chat = pickle.loads(pickle.dumps(chat))
    assert (found.template_kwargs, found.call_format, found.past_thinking) == ({"one": 1}, "hermes", "template")
    messages: list[Message] = [{"role": "user", "content": "How much is 2 + 2?"}]
    assert found.prompt(messages) == chat.prompt(messages)
