"""A run so small that a test can afford many, and what two runs must have in common."""

import json
import os
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd import records
from agentopd.config import Config, load_config
from agentopd.evaluation import Panel, Played
from agentopd.models import NewModel, new_model
from agentopd.training.loop.arguments import AgentOPDConfig, arguments
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.stages import tokenizer_of
from agentopd.training.show.display import say
from agentopd.types import Record, timeless

STAGES = "AGENTOPD_TESTS_STAGES"
TINY: dict[str, Any] = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 24, "max_positions": 1024}


def raw(*, method: str | dict[str, Any] = "agentopd", **train: Any) -> dict[str, Any]:
    """The configuration as a plain mapping: keyword arguments are keys of ``train``."""
    pool = {"objective": {"sampler": {"kind": "frozen", "actors": {"expert": 1.0}, "episodes": 8}}}
    return (pool if method == "sft" else {}) | {
        "env": {"id": "agentopd/Checkout-v0"},
        "student": {"new": TINY | {"vocab_size": 400}},
        "teachers": {"teacher": {"kind": "local", "new": TINY | {"vocab_size": 400}}, "expert": {"kind": "expert"}},
        "stages": {"cache": stage_cache(), "teacher": {"episodes": 8, "steps": 1}},
        "rollout": {"max_new_tokens": 24, "max_length": 640, "max_turns": 4},
        "method": method,
        "train": {
            "steps": 2, "tasks_per_step": 2, "learning_rate": 0.01, "schedule": "cosine", "eval_every": 0, "save_every": 0,
        } | train,
        "evaluation": {"tasks": 4, "during": 2},
    }  # fmt: skip


def tiny(*overrides: str, method: str | dict[str, Any] = "agentopd", **train: Any) -> Config:
    return load_config(raw(method=method, **train), overrides)


@cache
def _cache_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory()


def stage_cache() -> str:
    """One folder for the whole session, and the processes that it starts, so that the tokenizer is built once."""
    if STAGES not in os.environ:
        os.environ[STAGES] = _cache_folder().name
    return os.environ[STAGES]


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return tokenizer_of(tiny(), say)


def model(seed: int) -> PreTrainedModel:
    return new_model(NewModel(**TINY), tokenizer(), seed)


def trainer(config: Config, output: Path, **options: Any) -> AgentOPDTrainer:
    """A trainer as a person builds it in Python, with weights from seeds."""
    args: AgentOPDConfig = options.pop("args", None) or arguments(config, output)
    student = options.pop("model", None) or model(0)
    teacher = options.pop("teacher_model", None) or model(1)
    return AgentOPDTrainer(student, args, tokenizer(), teacher_model=teacher, **options)


def weights(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved(run: Path) -> dict[str, Tensor]:
    return load_file(run / "student" / "model.safetensors")


def metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics, without what a clock measured."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def kept(run: Path) -> list[Record]:
    """The records of a run that count, without what a clock measured."""
    return [_timeless(record) for record in records.open(run)]


def _timeless(record: Record) -> Record:
    turns = tuple(map(timeless, record.trajectory.turns))
    return replace(record, trajectory=replace(record.trajectory, turns=turns))


def panel_of(successes: int) -> Panel:
    """A panel of two tasks, of which so many succeeded."""
    return Panel(tuple(Played(str(i), "tests/None-v0", i < successes, 0.0, 1, ((),), "terminated") for i in range(2)))


def panels(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "panels.json").read_text()))
