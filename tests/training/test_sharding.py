"""A student in shards: the gradient, the optimizer's state and the weights are those of the whole one."""

from typing import Any

import torch
from model_cases import model_of
from processes_cases import together
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from agentopd.forward import hidden_states
from agentopd.models import head_of
from agentopd.objective import linear_divergence
from agentopd.training.loop.ranks import joined
from agentopd.training.loop.sharding import hand_over, shard_state, sharded, whole, whole_state

IDS_B_T = torch.tensor([[3, 4, 5, 6], [3, 4, 7, 8]])


def _loss(model: nn.Module, rows: slice) -> Tensor:
    """The divergence from a fixed teacher over some of the rows, by the head that the model has after its forward."""
    hidden_N_H = hidden_states(model, IDS_B_T[rows]).flatten(0, 1)
    generator = torch.Generator().manual_seed(2)
    teacher_V_H = torch.randn(50, 16, generator=generator, dtype=torch.float64)
    head = head_of(model)
    out = linear_divergence(hidden_N_H, head.weight_V_H, torch.ones_like(hidden_N_H), teacher_V_H, kind="forward_kl")
    return out.loss


def _in_shards(tied: bool) -> dict[str, Any]:
    """One step of each process on a row of its own, and a second one with the state read back."""
    rank = joined().rank
    student = model_of("llama", tie_word_embeddings=tied)
    learning = sharded(student, 2)
    optimizer = torch.optim.AdamW(learning.parameters(), lr=0.01)
    (_loss(learning, slice(rank, rank + 1)) * 2).backward()  # type: ignore[no-untyped-call]
    gradients = {name: whole(p.grad) for name, p in learning.named_parameters()}
    optimizer.step()
    hand_over(learning, student)
    state = whole_state(optimizer.state_dict())
    after = {name: value.clone() for name, value in student.named_parameters()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    hand_over(student, learning)
    again = torch.optim.AdamW(learning.parameters(), lr=0.01)
    again.load_state_dict(state)
    shard_state(again)
    return {
        "sharded": sum(isinstance(module, FSDPModule) for module in learning.modules()),
        "gradients": gradients,
        "after": {name: value.detach() for name, value in after.items()},
        "given": max(float((whole(p) - after[name] - 1.0).abs().max()) for name, p in learning.named_parameters()),
        "moments": [isinstance(held["exp_avg"], DTensor) for held in again.state.values()],
        "state": state["state"],
    }


def test_one_step_in_shards_is_one_step() -> None:
    for tied in (False, True):
        student = model_of("llama", tie_word_embeddings=tied)
        assert head_of(student).weight_V_H.requires_grad
        optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
        (_loss(student, slice(0, 1)) + _loss(student, slice(1, 2))).backward()  # type: ignore[no-untyped-call]
        gradients = {name: p.grad for name, p in student.named_parameters()}
        optimizer.step()
        for told in together(_in_shards, tied):
            assert told["sharded"] == 3  # two layers, and what is around them
            assert told["gradients"].keys() == gradients.keys()
            for name, gradient in gradients.items():
                torch.testing.assert_close(told["gradients"][name], gradient, rtol=1e-9, atol=1e-12)
            for name, parameter in student.named_parameters():
                torch.testing.assert_close(told["after"][name], parameter.detach(), rtol=1e-9, atol=1e-12)
            for number, held in optimizer.state_dict()["state"].items():
                for name, value in held.items():
                    torch.testing.assert_close(told["state"][number][name], value, rtol=1e-9, atol=1e-12)
            assert told["given"] < 1e-12
            assert all(told["moments"])
