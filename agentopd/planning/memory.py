"""What a device holds, part by part, and when: most parts live in one stage of a step, so the sum of all is never there at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentopd.objective.chunked import TILE
from agentopd.planning.activations import Numbers, behind, of_token
from agentopd.planning.setup import HOLDERS, Held, Setup
from agentopd.planning.step import Step, read
from agentopd.teachers.local import CHUNK_ROWS
from agentopd.training.checks.checkpointed import Checkpoints
from agentopd.types import STUDENT

GENERATE, TEACHERS, LEARN = "generate", "teachers", "learn"
STAGES = (GENERATE, TEACHERS, LEARN)
EXACT = 4
"""Bytes of a number in float32."""
CONTEXT = 0.6e9
"""Bytes that CUDA and its libraries take in a process before any tensor: what is usual, not a maker's figure."""
EVALUATED, READ = 8, 4
"""Tensors of logits in float32 that exist at once, at most, while a divergence is evaluated and differentiated, or a teacher's statistics are taken."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something that takes memory."""

    name: str
    bytes: float
    remedy: str
    """What makes it smaller."""
    stages: tuple[str, ...] = STAGES
    """When it is there."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where the parts are."""

    memory: float
    """Bytes."""
    cpu: bool
    gpus: int = 1
    """How many such devices share a step."""
    sharded: bool = False
    """Whether what is learned is divided among them (FSDP), rather than whole on each (DDP)."""


def parts(setup: Setup, step: Step, on: Device) -> tuple[Part, ...]:
    """What one device holds of its share ``step``, the largest first; parts of nothing are left out."""
    found = [
        *_student(setup, on),
        *_teachers(setup, step, on),
        *_generating(setup, step, on),
        *_learning(setup, step, on),
    ]
    return tuple(sorted((part for part in found if part.bytes), key=lambda part: -part.bytes))


def during(found: Sequence[Part], stage: str) -> float:
    """Bytes of the parts that are there in a stage."""
    return sum(part.bytes for part in found if stage in part.stages)


def peak(found: Sequence[Part]) -> tuple[str, float]:
    """The stage that takes most, and its bytes."""
    return max(((stage, during(found, stage)) for stage in STAGES), key=lambda pair: pair[1])


def _student(setup: Setup, on: Device) -> list[Part]:
    """Weights and what is trained of them. Of shards there is a second model, divided with all that is learned; of that FSDP gathers a
    layer, and the head, whole."""
    student, trained, shards = setup.student, setup.trained, on.gpus if on.sharded else 1
    more = "shard the student over more devices (train.sharded=true, --gpus)"
    whole = f"set train.lora, or {more}" if trained.rank is None else more
    found = [
        Part("student", student.bytes, _halved(STUDENT, student) + "take a larger device"),
        Part("layer unpacked", max(one.unpacked for one in (student, *setup.teachers)), "take a larger device"),
        Part("gradients", trained.gradients / shards, whole, (LEARN,)),
        Part("optimiser", trained.optimiser / shards, whole),
    ]
    if shards > 1:
        shape = student.shape
        found.append(Part("shards", student.bytes / shards, more))
        found.append(Part("gathered", (shape.body / shape.layers + shape.head) * student.itemsize, whole, (LEARN,)))
    if setup.follows:
        found.append(Part("acting copy", trained.gradients, "set rollout.mode: sync"))
    return found


def _teachers(setup: Setup, step: Step, on: Device) -> list[Part]:
    found = []
    for one in setup.teachers:
        key = f"teachers.{one.name}"
        if not one.borrowed:
            wait = f"set {key}.offload: true, or " if one.offload is False and not on.cpu else ""
            remedy = f"{_halved(key, one)}{wait}serve it elsewhere ({key}.kind: served)"
            found.append(Part(key, one.lying(on.cpu), remedy))
        hidden = step.episodes * step.generated * one.shape.hidden * one.itemsize
        found.append(Part(f"{key} hidden states", hidden, "lower train.tasks_per_step", (TEACHERS, LEARN)))
    passing = max((one.shape.largest * one.itemsize for one in setup.teachers if one.offload and not on.cpu), default=0)
    found.append(Part("weight that waited", passing, "take a larger device", (GENERATE, TEACHERS)))
    return found


def _halved(key: str, model: Held) -> str:
    """The first half of a remedy, where weights are not in half precision yet."""
    return f"set {key}.dtype: bfloat16, or " if model.itemsize > 2 else ""


def _generating(setup: Setup, step: Step, on: Device) -> list[Part]:
    """Caches of the transformers engine, those of the last turn and of this one; what vLLM reserves; a teacher's forward pass."""
    here = [*setup.teachers, *([setup.student] if setup.engine == "transformers" else [])]
    together = min(setup.concurrency, step.played) * sum(one.cached for one in here if one.acts)
    player = max((one for one in here if one.plays), key=lambda one: one.cached, default=None)
    alone = 0.0 if player is None else min(setup.concurrency, setup.panel) * player.cached
    name = f"caches of {player.name}'s panel" if player is not None and alone > together else "caches"
    cached = 2 * setup.longest * max(together, alone)
    sleeps = setup.sleeps and not on.cpu  # a CPU's server says so, and gives nothing back
    # a server that sleeps does so in the panels of others, which are then no part of its stage
    stages = (TEACHERS,) if sleeps and alone > together else (GENERATE,)
    found = [Part(name, cached, "lower rollout.concurrency or rollout.max_length", stages)]
    if setup.reserved is not None:
        fewer = "lower --gpu-memory-utilization in rollout.engine.arguments"
        remedy = fewer if sleeps or on.cpu else f"set rollout.engine.sleep: true, or {fewer}"
        holder = HOLDERS[setup.engine]
        found.append(Part(holder, setup.reserved * on.memory, remedy, (GENERATE,) if sleeps else STAGES))
        if sleeps and setup.engine == "vllm":  # a process of its own
            found.append(Part(f"{holder} asleep", CONTEXT, "take a larger device", (TEACHERS, LEARN)))
    reading = max((_reading(one, step, on) for one in setup.teachers), default=0.0)
    found.append(Part("reading", reading, "lower max_tokens of the teachers", (TEACHERS,)))
    return found


def _reading(teacher: Held, step: Step, on: Device) -> float:
    """Bytes of a teacher's forward pass, which keeps keys and values of what all rows begin with, and of its statistics."""
    shape = teacher.shape
    reading = read(step, teacher.max_tokens)
    passing = reading.tokens * teacher.itemsize * (3 * shape.feed_forward + 4 * shape.hidden)
    cached = (reading.tokens + reading.saved) * teacher.cached
    return (passing + cached) / reading.passes + _logits(CHUNK_ROWS, teacher, 1, READ, on.cpu)


def _learning(setup: Setup, step: Step, on: Device) -> list[Part]:
    student, trained = setup.student, setup.trained
    reading = read(step, setup.max_tokens, once=setup.checkpoints is None)
    numbers = Numbers(student.itemsize, setup.autocast, trained.rank)
    checkpoints = setup.checkpoints
    if checkpoints is not None and on.cpu:  # what waits in the host's memory is in the same
        checkpoints = replace(checkpoints, offload=False)
    kept = reading.tokens * of_token(student.shape, numbers, checkpoints)
    if reading.saved:
        kept += step.episodes * behind(student.shape, numbers, step.length, step.common)
    rows = min(setup.chunk_rows, int(step.episodes * step.generated / reading.passes))
    logits = _logits(rows, student, 1 + bool(setup.teachers), EVALUATED, on.cpu)
    found = [
        Part("activations", kept / reading.passes, f"{_fewer(setup.checkpoints, on)}lower train.max_tokens", (LEARN,)),
        Part("logits", logits, "lower train.chunk_rows", (LEARN,)),
    ]
    if trained.rank is None:
        cast = student.itemsize if student.itemsize != EXACT else 0
        head = student.shape.head * (EXACT + cast)
        found.append(Part("head's gradient", head, "set train.lora", (LEARN,)))
    if setup.autocast and student.itemsize > 2:
        found.append(Part("weights cast", 2 * student.shape.body, "set student.dtype: bfloat16", (LEARN,)))
    return found


def _fewer(checkpoints: Checkpoints | None, on: Device) -> str:
    """The first half of a remedy, where layers could keep less."""
    if checkpoints is None:
        return "set train.arguments.gradient_checkpointing: true, or "
    if checkpoints.offload or on.cpu:
        return ""
    return "set train.arguments.gradient_checkpointing_kwargs: {offload: true}, or "


def _logits(rows: int, model: Held, models: int, evaluated: int, cpu: bool) -> float:
    """Bytes of a chunk's logits: of ``models`` in their dtype, and of its tiles in float32; on a CPU tiles are small, elsewhere the chunk."""
    numbers = rows * model.shape.vocabulary
    tile = min(numbers, TILE) if cpu else numbers
    return float(numbers * models * model.itemsize + tile * evaluated * EXACT)
