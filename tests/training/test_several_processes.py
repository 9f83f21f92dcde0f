"""Several processes train as one does: the same losses, the same parameters, the same records."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
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
ON_THE_WAY = "checkpoint-8"


def _config(way: str) -> Config:
    """Ten steps of an odd number of micro-batches, with a checkpoint on the way."""
    return cases.tiny(
        "rollout.max_turns=2",
        "rollout.max_new_tokens=12",
        steps=10,
        tasks_per_step=3,
        max_tokens=400,
        learning_rate=0.003,
        save_every=8,
        **WAYS[way][1],
    )


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


def _both(way: str, folder: Path, checkpoint: Path) -> tuple[Told, Told]:
    """From the first step on, and from the checkpoint of a single process."""
    return _trained(way, folder / "two"), _trained(way, folder / "on", checkpoint)


@dataclass(frozen=True)
class Runs:
    """One way of two processes, beside a single one."""

    way: str
    folder: Path
    alone: Path
    single: Told
    two: list[tuple[Told, Told]]
    """By rank: from the first step on, and from a checkpoint of the single one."""
    back: Told
    """Of a single one that goes on from a checkpoint of the two."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Told]]:
    """A single process, with an adapter or without: it has nothing to share out."""

    @cache
    def made(lora: bool) -> tuple[Path, Told]:
        folder = tmp_path_factory.mktemp("alone")
        return folder, _trained("copied-lora" if lora else "copied", folder)

    return lambda way: made("lora" in way)


@pytest.fixture(
    scope="module", params=[pytest.param(way, marks=[pytest.mark.slow] * (way == "copied-lora")) for way in WAYS]
)
def runs(
    request: pytest.FixtureRequest, alone: Callable[[str], tuple[Path, Told]], tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    way, folder = request.param, tmp_path_factory.mktemp(request.param)
    place, single = alone(way)
    two = together(_both, way, folder, place / ON_THE_WAY)
    return Runs(way, folder, place, single, two, _trained(way, folder / "back", folder / "two" / ON_THE_WAY))


def same(a: Told, b: Told) -> None:
    assert a.losses == pytest.approx(b.losses, abs=1e-5)
    assert a.weights.keys() == b.weights.keys()
    for name, value in a.weights.items():
        torch.testing.assert_close(value, b.weights[name], rtol=0, atol=1e-5)


def test_two_processes_learn_what_one_learns(runs: Runs) -> None:
    assert len(runs.single.losses) == 10
    assert all(map(math.isfinite, runs.single.losses))
    untrained = cases.trainer(_config(runs.way), runs.folder / "untrained").student.state_dict()
    assert max(float((value - untrained[name]).abs().max()) for name, value in runs.single.weights.items()) > 1e-2
    for told, _ in runs.two:
        assert told.learning == WAYS[runs.way][0]
        assert told.sharded == {"sharded" in runs.way}
        same(told, runs.single)


def test_a_checkpoint_is_gone_on_from_by_another_number_of_processes(runs: Runs) -> None:
    for told in (*(on for _, on in runs.two), runs.back):
        same(told, runs.single)
    assert runs.back.sharded == {False}


def test_a_checkpoint_is_the_same_for_any_number_of_processes(runs: Runs) -> None:
    two = runs.folder / "two"
    assert files(two) == files(runs.alone)
    held = [torch.load(run / ON_THE_WAY / "optimizer.pt", weights_only=True) for run in (two, runs.alone)]
    assert held[0].keys() == held[1].keys()
    for number, state in held[1]["state"].items():
        assert state.keys() == held[0]["state"][number].keys()
        for name, value in state.items():
            torch.testing.assert_close(held[0]["state"][number][name], value, rtol=0, atol=1e-5)
