"""Two processes train, each with a vLLM server of its own: run by ``make test-vllm``, which installs it."""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from processes_cases import together
from torch import Tensor
from transformers import PreTrainedModel
from vllm_cases import CPU, MARKS, VLLM, Weights, written_by_their_versions

from agentopd import records
from agentopd.config import Config
from agentopd.errors import PolicyError
from agentopd.models import NewModel, new_model
from agentopd.rollout.vllm.server import stop_servers
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.types import ENGINE, Record

pytestmark = MARKS
ENGINE_HERE = f"rollout.engine={{kind: vllm, python: {VLLM}}}"
SHORT = ("rollout.max_turns=2", "rollout.max_new_tokens=8")


def _config(*overrides: str, **train: Any) -> Config:
    return cases.tiny(*SHORT, *overrides, **{"steps": 2, "tasks_per_step": 4, **train})


def _model(seed: int) -> PreTrainedModel:
    """The attention of vLLM's CPU build takes heads of 32 numbers, and none smaller."""
    shape = NewModel(hidden_size=64, layers=1, heads=2, intermediate_size=96, max_positions=1024)
    return new_model(shape, cases.tokenizer(), seed)


def _trainer(config: Config, output: Path) -> AgentOPDTrainer:
    return cases.trainer(config, output, model=_model(0), teacher_model=_model(1), folder=RunFolder(output))


@dataclass(frozen=True)
class Told:
    """What a training left in one process."""

    learning: str
    by_version: list[dict[str, Tensor]]
    losses: list[float]


def _trained(config: Config, output: Path) -> Told:
    os.environ.update(CPU)
    run = _trainer(config, output)
    weights = Weights(run.student)
    run.add_callback(weights)
    run.train()
    losses = [row["loss"] for row in run.state.log_history if "loss" in row]
    return Told(type(run.model_wrapped).__name__, weights.by_version, losses)


def _killed(config: Config, output: Path) -> tuple[str, bool]:
    """The server of the second process is killed while it writes a turn of the second step."""
    run = _trainer(config, output)
    policy: Any = run.river.policies["student"]
    turn = policy._turn

    def killing(server: Any, request: Any) -> Any:
        if policy.version == 1 and server.alive:
            os.killpg(server.pid, signal.SIGKILL)
        return turn(server, request)

    if run.ranks.rank == 1:
        policy._turn = killing
    with pytest.raises(PolicyError) as caught:
        run.train()
    stop_servers()
    return str(caught.value), caught.value.is_told


def _all_weights(folder: Path) -> tuple[Told, Told, tuple[str, bool]]:
    """One server a process for all three."""
    copied = _trained(_config(ENGINE_HERE), folder / "copied")
    sharded = _trained(_config(ENGINE_HERE, "rollout.mode=async", sharded=True), folder / "sharded")
    return copied, sharded, _killed(_config(ENGINE_HERE), folder / "killed")


def _adapter(folder: Path) -> Told:
    told = _trained(_config(ENGINE_HERE, sharded=True, lora={"r": 4}), folder)
    stop_servers()
    return told


def form(kept: list[Record]) -> list[Any]:
    """What records of one configuration have in common, whoever wrote the tokens."""
    found = []
    for record in kept:
        one, said = record.trajectory, [(each.teacher, type(each.block)) for each in record.annotations]
        found.append((one.key.step, one.key.index, one.task, one.actors, one.versions.keys(), one.failure, said))
    return found


def as_one_process_leaves_them(run: Path, told: list[Told], alone: Config, folder: Path) -> None:
    """The records of ``run``, and what both processes made of them."""
    single = _trainer(alone, folder)
    student = _trainer(alone, folder / "read").student
    single.train()
    kept = [*records.open(run)]
    assert form(kept) == form([*records.open(folder)])
    assert {one.trajectory.versions[ENGINE] for one in kept} == {"vllm"}
    assert {turn.policy_version for one in kept for turn in one.trajectory.turns} == {0, 1}
    written_by_their_versions(student, told[0].by_version, [one.trajectory for one in kept], alone.rollout)
    assert told[0].losses == told[1].losses
    for name, value in told[0].by_version[2].items():
        torch.testing.assert_close(value, told[1].by_version[2][name], rtol=0, atol=0)
    assert not cases.same_weights(told[0].by_version[0], told[0].by_version[1])


def test_each_process_has_a_server_which_follows_its_student_and_whose_death_ends_both(tmp_path: Path) -> None:
    cases.tokenizer()
    first, second = together(_all_weights, tmp_path)
    assert first[0].learning == second[0].learning == "DistributedDataParallel"
    as_one_process_leaves_them(tmp_path / "copied", [first[0], second[0]], _config(), tmp_path / "alone")
    assert first[1].learning == second[1].learning == "FSDPLlamaForCausalLM"
    played = [one.trajectory for one in records.open(tmp_path / "sharded")]
    written_by_their_versions(_model(0), first[1].by_version, played, _config().rollout)
    assert second[2][0].startswith("the student's vLLM server did not answer")
    assert first[2][0].startswith(f"{second[2][0]}; the 2 episodes that were played in step 1 are kept, ")
    assert [first[2][1], second[2][1]] == [False, True]  # told once
    shutil.rmtree(Path(second[2][0].rsplit(" ", 1)[1]).parent)  # of the log, which is kept


def test_each_server_wears_the_adapter_that_learns_in_shards(tmp_path: Path) -> None:
    cases.tokenizer()
    told = together(_adapter, tmp_path / "two")
    assert told[0].learning == "FSDPPeftModelForCausalLM"
    as_one_process_leaves_them(tmp_path / "two", told, _config(lora={"r": 4}), tmp_path / "alone")
