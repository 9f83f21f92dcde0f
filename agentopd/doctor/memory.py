"""What a step takes of memory, roughly, and what there is."""

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from agentopd.adapters import adapted
from agentopd.config import Config
from agentopd.doctor.check import Check
from agentopd.doctor.patient import Patient
from agentopd.models import head_of, outline_of
from agentopd.objective.chunked import CHUNK
from agentopd.settings.choice import Choice
from agentopd.teachers import traits_of
from agentopd.training.checks.preflight import peft_config_of
from agentopd.training.checks.roles import model_of
from agentopd.types import STUDENT

MEMORY = "memory"
GIB = 2**30
ACTIVATIONS = 17
"""Numbers that one layer keeps for the backward pass, for each token and hidden unit: 34 bytes in half precision without attention's
matrix (Korthikanti et al., arXiv 2205.05198, section 4.1, for a feed-forward layer of four times the hidden size)."""
TIGHT = 0.7
"""The share of what there is from which on an estimate is too close to it."""
ADAM = 2
"""Numbers that the optimiser keeps for each trained weight."""


def memory(patient: Patient) -> Iterator[Check]:
    """The estimate beside what there is; weights that have no room are not loaded by other checks."""
    config, there = patient.config, available()
    student = outline_of(config.student, patient.tokenizer)
    others = {name: _outline(patient, name, choice) for name, choice in patient.choices.items()}
    needed = estimate(config, student, {name: one for name, one in others.items() if one is not None})
    weights = needed["student"] + needed["teachers"]
    if weights > there:
        patient.too_large = f"weights of {shown(weights)} have no room here, so no model is loaded: see memory"
    yield judged(needed, there)


def _outline(patient: Patient, name: str, choice: Choice) -> PreTrainedModel | None:
    """The weights of a teacher in this process, without their values; ``None`` where it has none of its own."""
    if not traits_of(choice).model:
        return None
    model = model_of(name, choice)
    if model is None and patient.config.train.lora is not None:
        return None  # the student without its adapter
    return outline_of(model or patient.config.student, patient.tokenizer)


def estimate(config: Config, student: PreTrainedModel, teachers: Mapping[str, PreTrainedModel]) -> dict[str, float]:
    """Bytes by what they are for; of activations and caches only the order of magnitude. Models are without weights."""
    train, rollout = config.train, config.rollout
    weights, size, trained = _bytes(student), student.dtype.itemsize, _trained(config, student)
    of_batch = train.tasks_per_step * max(s.per_task for s in config.objective.sources.values())
    living = min(rollout.concurrency, max(of_batch, config.evaluation.tasks))
    logits = min(train.chunk_rows * head_of(student).weight_V_H.shape[0], CHUNK)
    return {
        STUDENT: weights,
        "gradients": trained,
        "optimiser": ADAM * trained,
        "teachers": sum(map(_bytes, teachers.values())),
        "activations": _activations(student, train.max_tokens, bool(train.arguments.get("gradient_checkpointing")))
        * size,
        "logits": 3.0 * logits * torch.float32.itemsize,
        "caches": living * rollout.max_length * max(map(_cached, (student, *teachers.values()))),
    }


def _trained(config: Config, student: PreTrainedModel) -> float:
    """Bytes of the weights that are trained: all, or those of the adapter."""
    lora = config.train.lora
    if lora is None:
        return _bytes(student)
    alone = copy.deepcopy(student)  # an adapter is put into the model itself
    wrapped: Any = adapted(alone, peft_config_of(lora), config.seed, "train.lora", weightless=True)
    return float(sum(p.numel() * p.element_size() for p in wrapped.parameters() if p.requires_grad))


def _bytes(model: PreTrainedModel) -> float:
    return float(sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()))


def _activations(model: PreTrainedModel, tokens: int, checkpointed: bool) -> float:
    """Numbers kept for the backward pass of a micro-batch."""
    config = model.config.get_text_config()
    layers, kept = config.num_hidden_layers, float(tokens * config.hidden_size)
    return float(kept * (layers + ACTIVATIONS) if checkpointed else kept * layers * ACTIVATIONS)


def _cached(model: PreTrainedModel) -> float:
    """Bytes of keys and values for one token."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return float(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)


def judged(needed: Mapping[str, float], there: float) -> Check:
    """An estimate beside the bytes that there are."""
    total = sum(needed.values())
    largest = sorted(((part, name) for name, part in needed.items() if part >= 0.05 * total), reverse=True)
    parts = ", ".join(f"{name} {shown(part)}" for part, name in largest)
    found = f"a step takes roughly {shown(total)}, of {shown(there)} that there are (an estimate: {parts})"
    if total <= TIGHT * there:
        return Check(MEMORY, "pass", found)
    remedy = (
        "lower train.max_tokens (activations) or rollout.concurrency (caches), set train.lora (gradients, optimiser), "
        "train.arguments.gradient_checkpointing: true or student.dtype: bfloat16, or serve the teacher elsewhere"
    )
    return Check(MEMORY, "fail" if total > there else "warn", found, remedy)


def shown(size: float) -> str:
    """So many bytes, in a unit that a person reads."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def available() -> float:
    """Bytes that a process could still take: of the GPU where there is one, else of the machine, or of the share that it is given."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    limits = [_limit(Path("/sys/fs/cgroup/memory.max")), _limit(Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))]
    return min([_free(), *(limit for limit in limits if limit is not None)])


def _limit(file: Path) -> float | None:
    """What a container may take; ``None`` where it has no limit."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return float(text) if text.isdecimal() else None


def _free() -> float:
    """What the system says is available; where it does not say, all that it has."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * float(line.split()[1])
    except OSError:
        pass
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
