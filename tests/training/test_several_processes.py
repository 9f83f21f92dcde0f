"""Several processes train as one does: the same losses, the same parameters, the same records."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from processes_cases import together
from torch import Tensor
from torch.distributed.tensor import DTensor

from agentopd.config import Config
from agentopd.training.loop.trainer import AgentOPDTrainer

PAYING = "env.id=training_envs:tests/Paying-v0"


def _config(*overrides: str, **train: Any) -> Config:
    """Ten steps with micro-batches of a single episode or two, an odd number of them."""
    settings = {"steps": 10, "tasks_per_step": 3, "max_tokens": 500, "learning_rate": 0.003} | train
    return cases.tiny(*overrides, **settings)


def _trained(config: Config, output: Path, **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    trainer = cases.trainer(config, output, **options)
    trainer.train()
    return told(trainer)


def told(trainer: AgentOPDTrainer) -> dict[str, Any]:
    """What a training left behind."""
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    learning = trainer.model_wrapped
    sharded = {isinstance(parameter, DTensor) for parameter in learning.parameters()}
    return {
        "kind": type(learning).__name__,
        "sharded": sharded,
        "losses": losses,
        "weights": cases.weights(trainer.student),
        "rank": trainer.ranks.rank,
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a["losses"] == pytest.approx(b["losses"], abs=1e-5)
    close(a["weights"], b["weights"])


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("sharded", [False, True], ids=["copied", "sharded"])
def test_two_processes_learn_what_one_learns(sharded: bool, tmp_path: Path) -> None:
    config = _config(sharded=sharded)
    alone = _trained(config, tmp_path / "alone")
    first, second = together(_trained, config, tmp_path / "two")
    assert len(alone["losses"]) == 10
    assert [first["rank"], second["rank"]] == [0, 1]
    moved = max(float((v - alone["weights"][n]).abs().max()) for n, v in cases.weights(cases.model(0)).items())
    assert moved > 1e-2
    assert all(map(math.isfinite, alone["losses"]))
    kind = "FSDPLlamaForCausalLM" if sharded else "DistributedDataParallel"
    assert (first["kind"], first["sharded"]) == (kind, {sharded})
    assert (alone["kind"], alone["sharded"]) == ("LlamaForCausalLM", {False})
    same(first, alone)
    same(second, alone)
