"""The output head: its derivative, its memory, and one that is spread over processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.multiprocessing.spawn import spawn

from agentopd.objective import Head, linear_divergence
from agentopd.objective.head import Projector, Scratch

A, V, H = 6, 8, 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.3, None), (1.0, 2.0), (0.3, 2.0)])
def test_the_slope_is_the_derivative_of_the_logits(scale: float, softcap: float | None) -> None:
    head, projected = Head(normal(V, H), None, scale, softcap), normal(A, V, seed=1).requires_grad_()
    logits = head.shaped(projected)
    expected = torch.autograd.grad(logits.sum(), projected)[0]
    torch.testing.assert_close(torch.as_tensor(head.slope(logits.detach())).double().expand(A, V), expected)


def test_chunks_stand_in_one_memory() -> None:
    head, hidden = Head(normal(V, H), normal(V)), normal(A, H)
    project = Projector(head, hidden)
    first = project(slice(0, 4))
    torch.testing.assert_close(first, head.logits(hidden[:4]))
    second = project(slice(4, 6))
    torch.testing.assert_close(second, head.logits(hidden[4:]))
    assert second.data_ptr() == first.data_ptr()
    scratch = Scratch()
    assert scratch.rows(2, hidden, V).shape == scratch.rows(2, hidden.float(), V).shape == (2, V)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_a_sharded_head_is_gathered_and_gets_its_gradient(mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, teacher = normal(A, H), normal(V, H, seed=1), normal(V, H, seed=2)
    sharded = nn.Parameter(distribute_tensor(weight, mesh, [Shard(0)]))
    gathered: list[Tensor] = []

    def counted(self: DTensor) -> Tensor:
        gathered.append(self.to_local())
        return gathered[-1]

    monkeypatch.setattr(DTensor, "full_tensor", counted)
    leaf = weight.clone().requires_grad_()
    spread = distribute_tensor(teacher, mesh, [Shard(0)])
    out = linear_divergence(hidden, sharded, hidden, spread, chunk_rows=2)
    expected = linear_divergence(hidden, leaf, hidden, teacher)
    torch.testing.assert_close(out.divergence, expected.divergence)
    assert len(gathered) == 2  # one each, though there are three chunks
    out.loss.backward()  # type: ignore[no-untyped-call]
    expected.loss.backward()  # type: ignore[no-untyped-call]
    assert isinstance(sharded.grad, DTensor)
    torch.testing.assert_close(sharded.grad.to_local(), leaf.grad)


def _process(rank: int, folder: str) -> None:
    """Each of two processes has half of the rows and of the head; both check the mean gradient of their losses."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    hidden, weight, teacher = normal(A, H), normal(V, H, seed=1), normal(V, H, seed=2)
    sharded = nn.Parameter(distribute_tensor(weight, mesh, [Shard(0)]))
    mine = hidden[3 * rank : 3 * rank + 3]
    linear_divergence(mine, sharded, mine, teacher).loss.backward()  # type: ignore[no-untyped-call]
    leaf = weight.clone().requires_grad_()
    linear_divergence(hidden, leaf, hidden, teacher).loss.backward()  # type: ignore[no-untyped-call]
    assert isinstance(sharded.grad, DTensor)
    assert leaf.grad is not None
    torch.testing.assert_close(sharded.grad.to_local(), leaf.grad[4 * rank : 4 * rank + 4])
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_head_over_two_processes_gets_the_mean_of_their_gradients(tmp_path: Path) -> None:
    spawn(_process, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
