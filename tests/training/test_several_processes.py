"""Several processes train as one does: the same losses, the same parameters, the same records."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from processes_cases import files, together
from torch import Tensor
from torch.distributed.tensor import DTensor

from agentopd.config import Config
from agentopd.training.loop.trainer import AgentOPDTrainer

WAYS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "copied": ("DistributedDataParallel", {}),
    "sharded": ("FSDPLlamaForCausalLM", {"sharded": True}),
    "copied-lora": ("DistributedDataParallel", {"lora": {"r": 2}}),
    "sharded-lora": ("FSDPPeftModelForCausalLM", {"sharded": True, "lora": {"r": 2}}),
}
"""What learns in each process, and the keys of ``train`` that make it so."""


def _config(way: str) -> Config:
    """Ten steps of an odd number of micro-batches, with a checkpoint half-way."""
    return cases.tiny(
        "rollout.max_turns=2",
        "rollout.max_new_tokens=12",
        steps=10,
        tasks_per_step=3,
        max_tokens=400,
        learning_rate=0.003,
        save_every=5,
        **WAYS[way][1],
    )


def _alone(way: str) -> str:
    """The way of which a single process makes the same: it has nothing to share out."""
    return way.replace("sharded", "copied")


@dataclass(frozen=True)
class Told:
    """What a training left behind."""

    learning: str
    sharded: frozenset[bool]
    losses: list[float]
    weights: Mapping[str, Tensor]


def _trained(way: str, output: Path, resume: Path | None = None) -> Told:
    torch.manual_seed(0)
    trainer = cases.trainer(_config(way), output)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return _told(trainer)


def _told(trainer: AgentOPDTrainer) -> Told:
    learning = trainer.model_wrapped
    return Told(
        type(learning).__name__,
        frozenset(isinstance(parameter, DTensor) for parameter in learning.parameters()),
        [row["loss"] for row in trainer.state.log_history if "loss" in row],
        cases.weights(trainer.student),
    )


def _both(folder: Path) -> dict[str, tuple[Told, Told]]:
    """Each way from the first step on, and from the checkpoint of a single process."""
    return {
        way: (
            _trained(way, folder / "two" / way),
            _trained(way, folder / "on" / way, folder / "alone" / _alone(way) / "checkpoint-5"),
        )
        for way in WAYS
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A single process with and without an adapter; two in each way; and a single one that goes on from their checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    cases.tokenizer()
    alone = {way: _trained(way, folder / "alone" / way) for way in {*map(_alone, WAYS)}}
    first, second = together(_both, folder)
    back = {way: _trained(way, folder / "back" / way, folder / "two" / way / "checkpoint-5") for way in WAYS}
    return {"folder": folder, "alone": alone, "first": first, "second": second, "back": back}


def same(a: Told, b: Told) -> None:
    assert a.losses == pytest.approx(b.losses, abs=1e-5)
    assert a.weights.keys() == b.weights.keys()
    for name, value in a.weights.items():
        torch.testing.assert_close(value, b.weights[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_learn_what_one_learns(way: str, runs: dict[str, Any]) -> None:
    alone = runs["alone"][_alone(way)]
    assert len(alone.losses) == 10
    assert all(map(math.isfinite, alone.losses))
    untrained = cases.trainer(_config(way), runs["folder"] / "untrained").student.state_dict()
    assert max(float((value - untrained[name]).abs().max()) for name, value in alone.weights.items()) > 1e-2
    for rank in ("first", "second"):
        told, _ = runs[rank][way]
        assert told.learning == WAYS[way][0]
        assert told.sharded == {"sharded" in way}
        same(told, alone)


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_is_gone_on_from_by_another_number_of_processes(way: str, runs: dict[str, Any]) -> None:
    alone = runs["alone"][_alone(way)]
    for told in (runs["first"][way][1], runs["second"][way][1], runs["back"][way]):
        same(told, alone)
    assert runs["back"][way].sharded == {False}


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_is_the_same_for_any_number_of_processes(way: str, runs: dict[str, Any]) -> None:
    two, alone = runs["folder"] / "two" / way, runs["folder"] / "alone" / _alone(way)
    assert files(two) == files(alone)
    held = [torch.load(run / "checkpoint-5" / "optimizer.pt", weights_only=True) for run in (two, alone)]
    assert held[0].keys() == held[1].keys()
    for number, state in held[1]["state"].items():
        assert state.keys() == held[0]["state"][number].keys()
        for name, value in state.items():
            torch.testing.assert_close(held[0]["state"][number][name], value, rtol=0, atol=1e-5)
