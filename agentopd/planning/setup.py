"""What a configuration puts on a device: models, what is trained of the student, and the limits that memory follows."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from agentopd.adapters import adapted
from agentopd.config import Config
from agentopd.planning.outlines import Outlines
from agentopd.planning.shape import Shape, shape_of
from agentopd.quantization import BYTES
from agentopd.settings.choice import Choice
from agentopd.teachers import is_language_model, traits_of
from agentopd.training.checks.checkpointed import Checkpoints, checkpoints
from agentopd.training.checks.packed import require_trainable
from agentopd.training.checks.preflight import peft_config_of
from agentopd.training.checks.roles import model_of, used_teachers
from agentopd.types import STUDENT

RESERVED = 0.92
"""The share of a device's memory that vLLM takes where it is not told (``CacheConfig.gpu_memory_utilization`` of 0.32)."""
HOLDERS = {"vllm": "vLLM server", "vllm_in_process": "vLLM"}
"""What takes that, by the engine's kind."""


@dataclass(frozen=True, slots=True)
class Held:
    """A model that a device holds."""

    name: str
    shape: Shape
    itemsize: int
    """Bytes of a weight."""
    acts: bool = False
    """In the episodes that are learned from."""
    plays: bool = True
    """The panels."""
    max_tokens: int = 0
    """Of a teacher: tokens in one forward."""
    borrowed: bool = False
    """Whether its weights are the student's, without the adapter."""
    quantized: bool = False
    """Whether weights that can be packed are."""
    offload: bool | None = None
    """Whether the weights of its layers wait in the host's memory; ``None`` where they cannot."""

    @property
    def packed(self) -> int:
        """Weights in four bits."""
        return self.shape.packable if self.quantized else 0

    @property
    def bytes(self) -> float:
        """Of all its weights."""
        return (self.shape.parameters - self.packed) * self.itemsize + self.packed * BYTES

    def lying(self, cpu: bool) -> float:
        """Bytes of its weights that are always on the device."""
        return self.bytes - self.shape.layered * self.itemsize if self.offload and not cpu else self.bytes

    @property
    def moved(self) -> float:
        """Bytes that pass to and from memory while all its weights are read once: what is packed is unpacked, a layer at a time, into its
        dtype, written, and read again."""
        return self.bytes + 2.0 * self.packed * self.itemsize

    @property
    def products(self) -> float:
        """Bytes of the weights that a token is multiplied with, as :attr:`moved`."""
        outside = (self.shape.parameters - self.shape.body - self.shape.head) * self.itemsize
        return self.moved - outside

    @property
    def unpacked(self) -> float:
        """Bytes of the largest layer in its dtype, where it is packed: one at a time is."""
        return float(self.quantized * self.shape.hidden * self.shape.feed_forward * self.itemsize)

    @property
    def cached(self) -> float:
        """Bytes of keys and values for one token."""
        return float(2 * self.shape.layers * self.shape.cached * self.itemsize)


@dataclass(frozen=True, slots=True)
class Trained:
    """What the optimiser sees."""

    parameters: int
    gradients: float
    """Bytes."""
    optimiser: float
    """Bytes that it keeps, after a step."""
    rank: int | None = None
    """Of an adapter; ``None`` where all weights are trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Everything that memory and time follow from, beside the step's tokens and the device."""

    student: Held
    teachers: tuple[Held, ...]
    trained: Trained
    engine: str
    reserved: float | None
    """The share of a device's memory that the student's vLLM takes; ``None`` without one."""
    sleeps: bool
    """Whether it gives that back while no turn is written."""
    concurrency: int
    panel: int
    """Tasks of the largest panel."""
    longest: int
    """Tokens of the longest episode."""
    max_tokens: int
    chunk_rows: int
    checkpoints: Checkpoints | None
    """Of the learner's layers; ``None`` where all keep everything."""
    autocast: bool
    """Whether the student's forward pass multiplies in half precision (accelerate wraps that alone: the head is outside)."""
    live: bool
    """Whether the student reads every episode once more before the step, for what the method asks of it."""
    follows: bool = False
    """Whether the student acts by a copy of what is trained, while it learns."""


def setup_of(config: Config, tokenizer: Callable[[], PreTrainedTokenizerBase]) -> tuple[Setup, list[str]]:
    """The setup of a configuration, and what is to be said of how it was found. No weights are read.

    Args:
        config: Of the run.
        tokenizer: Gives the student's; asked only where a model has new weights, whose size follows from it.

    Raises:
        ConfigError: A model cannot be found, or the adapter does not fit.
    """
    train, rollout, outlines = config.train, config.rollout, Outlines(tokenizer)
    student = outlines.of(config.student)
    trained = _trained(config, student, outlines.notes.append)
    acting = {actor for source in config.objective.sources.values() for actor in source.who}
    engine = rollout.engine
    if engine.kind not in ("transformers", *HOLDERS):
        outlines.notes.append(
            f"rollout.engine.kind={engine.kind}: what this engine takes is not known, and not counted"
        )
    if config.cluster.places:
        outlines.notes.append(f"{', '.join(config.cluster.places)}: counted as if it were on this device")
    quantized = config.student.quantization is not None
    if quantized:
        require_trainable(config, adapted=train.lora is not None)
    held = Held(STUDENT, shape_of(student), student.dtype.itemsize, STUDENT in acting, quantized=quantized)
    teachers = tuple(_teachers(config, outlines, acting))
    if packed := [one.name for one in (held, *teachers) if one.quantized]:
        outlines.notes.append(
            f"{', '.join(packed)}: in four bits; each forward or backward pass is taken to unpack a layer at a time, to write it and to read it "
            "again, and the arithmetic of that is not counted; on no GPU was this measured"
        )
    if waiting := [one.name for one in teachers if one.offload]:
        outlines.notes.append(
            f"{', '.join(waiting)}: the way of its weights to the device and back is not counted in the seconds"
        )
    setup = Setup(
        student=held,
        teachers=teachers,
        trained=trained,
        engine=engine.kind,
        reserved=reserved(engine) if engine.kind in HOLDERS else None,
        sleeps=rollout.made_engine.rest is not None,
        concurrency=rollout.concurrency,
        panel=config.evaluation.tasks,
        longest=rollout.max_length,
        max_tokens=train.max_tokens,
        chunk_rows=train.chunk_rows,
        checkpoints=checkpoints(train.arguments),
        autocast=bool(train.arguments.get("bf16") or train.arguments.get("fp16")),
        follows=rollout.made_mode.ahead is not None and not rollout.made_engine.copies,
        live=config.objective.needs_live,
    )
    return setup, outlines.notes


def _teachers(config: Config, outlines: Outlines, acting: set[str]) -> list[Held]:
    """The teachers that are models in this process."""
    found = []
    for name, choice in used_teachers(config).items():
        if not traits_of(choice).model:
            continue
        own = model_of(name, choice)
        wanted = own or config.student
        model, packed = outlines.of(wanted), wanted.quantization is not None
        borrowed = own is None and config.train.lora is not None
        tokens = int(choice.settings.get("max_tokens") or config.train.max_tokens)
        plays = is_language_model(choice)
        offload = None if own is None or packed else choice.settings.get("offload")
        held = Held(
            name, shape_of(model), model.dtype.itemsize, name in acting, plays, tokens, borrowed, packed, offload
        )
        found.append(held)
    return found


def reserved(engine: Choice) -> float:
    """The share that the arguments of a vLLM say, the last that says it."""
    share, flag = RESERVED, "gpu-memory-utilization"
    texts = [part for text in engine.settings["arguments"] for part in text.replace("_", "-").split("=")]
    for option, value in pairwise(texts):
        if option.lstrip("-") == flag:
            share = float(value)
    return share


def _trained(config: Config, student: PreTrainedModel, say: Callable[[str], None]) -> Trained:
    model, lora = student, config.train.lora
    if lora is not None:
        alone = copy.deepcopy(student)  # an adapter is put into the model itself
        with warnings.catch_warnings(action="ignore"):  # what PEFT warns of is an error of the preflight
            model = adapted(alone, peft_config_of(lora), config.seed, "train.lora", weightless=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return Trained(
        sum(p.numel() for p in parameters),
        float(sum(p.nbytes for p in parameters)),
        kept_by(config, parameters, say),
        None if lora is None else lora.r,
    )


def kept_by(config: Config, parameters: list[nn.Parameter], say: Callable[[str], None]) -> float:
    """Bytes that ``train.optimizer`` keeps for parameters without values: it takes a step on them."""
    name = config.train.optimizer
    try:
        named = {key: one for key, one in config.train.arguments.items() if key.startswith("optim_")}
        args = TrainingArguments("unused", optim=name, use_cpu=True, report_to=[], **named)
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        settings.pop("fused", None)  # it keeps the same, and does not run without values
        optimizer: Any = kind(parameters, **settings)
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        kept = optimizer.state.values()
    except Exception as error:  # packages of others, which may want a graphics card
        say(f"train.optimizer={name} cannot be tried here ({type(error).__name__}), so it is counted as Adam")
        return 2.0 * sum(p.nbytes for p in parameters)
    return float(sum(one.nbytes for state in kept for one in state.values() if isinstance(one, torch.Tensor)))
