"""A plan: what a configuration takes of a device's memory, how long a step takes, what bounds it, and whether it fits."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from agentopd.config import Config
from agentopd.errors import ConfigError
from agentopd.planning.hardware import Hardware
from agentopd.planning.memory import CONTEXT, Device, Part, parts, peak
from agentopd.planning.room import shown
from agentopd.planning.seconds import Stage, stages
from agentopd.planning.setup import HOLDERS, Setup, setup_of
from agentopd.planning.step import Step, by_limits, by_records
from agentopd.settings.choice import Choice
from agentopd.teachers import traits_of
from agentopd.training.checks.preflight import require_several
from agentopd.training.checks.roles import used_teachers
from agentopd.training.run.stages import tokenizer_of
from agentopd.training.show.display import attended


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be expected."""

    hardware: Hardware
    gpus: int
    sharded: bool
    setup: Setup
    step: Step
    """Of one device."""
    parts: tuple[Part, ...]
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]
    refused: str
    """Why it cannot run; empty where it fits."""

    @property
    def peak(self) -> float:
        """Bytes of the stage that takes most."""
        return peak(self.parts)[1]

    @property
    def seconds(self) -> float:
        """Of a step; stages follow each other."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def slowest(self) -> Stage:
        """The stage that takes longest."""
        return max(self.stages, key=lambda stage: stage.seconds)


@attended()
def plan(config: Config, on: Hardware, gpus: int = 1, run: Path | None = None) -> Plan:
    """What a run of ``config`` takes. No weights are read; of models that are new, the tokenizer is built as a run builds it.

    Args:
        config: Of the run.
        on: The device, of which there are ``gpus`` alike.
        gpus: How many share a step's episodes; with ``train.sharded`` what is learned, too.
        run: A run folder whose records say how long episodes are; by default they are as long as the configuration lets them be.

    Raises:
        ConfigError: A model cannot be found, or a number is wrong.
        RecordError: There are no such records.
    """
    if gpus < 1:
        raise ConfigError(f"gpus={gpus}: give at least 1 device")
    if gpus > 1:
        require_several(config, f"{gpus} processes")
    sharded = config.train.sharded and gpus > 1
    said: list[str] = []
    setup, notes = setup_of(config, _once(lambda: tokenizer_of(config, said.append)))
    step = (by_limits(config) if run is None else by_records(config, run)).shared(gpus)
    found = parts(setup, step, Device(on.memory, on.cpu, gpus, sharded))
    if not on.cpu:
        found = (*found, Part("CUDA", CONTEXT, "take a larger device"))
    room = _room(setup, on)
    refused = _refused(found, on) or _crowded(setup, on, room)
    spent = stages(setup, step, on, gpus, sharded, room)
    told = (*notes, *_lengths(run), *_excluded(used_teachers(config), setup), *_unlinked(on, gpus))
    return Plan(on, gpus, sharded, setup, step, found, spent, told, refused)


def _once(make: Callable[[], PreTrainedTokenizerBase]) -> Callable[[], PreTrainedTokenizerBase]:
    made: list[PreTrainedTokenizerBase] = []

    def given() -> PreTrainedTokenizerBase:
        if not made:
            made.append(make())
        return made[0]

    return given


def _room(setup: Setup, on: Hardware) -> float:
    """Episodes of full length whose caches a vLLM holds at once."""
    if setup.reserved is None:
        return math.inf
    left = setup.reserved * on.memory - setup.student.bytes
    return math.floor(left / (setup.longest * setup.student.cached))


def _refused(found: tuple[Part, ...], on: Hardware) -> str:
    stage, total = peak(found)
    if total <= on.memory:
        return ""
    largest = max((part for part in found if stage in part.stages), key=lambda part: part.bytes)
    return (
        f"{stage} takes {shown(total)}, and {on.name} has {shown(on.memory)}; the largest part is {largest.name} with "
        f"{shown(largest.bytes)}: {largest.remedy}"
    )


def _crowded(setup: Setup, on: Hardware, room: float) -> str:
    if setup.reserved is None or room >= 1:
        return ""
    one = setup.longest * setup.student.cached
    return (
        f"the {HOLDERS[setup.engine]} reserves {shown(setup.reserved * on.memory)}, in which its weights of {shown(setup.student.bytes)} leave no room for "
        f"the cache of one episode, {shown(one)}: raise --gpu-memory-utilization in rollout.engine.arguments, or lower rollout.max_length"
    )


def _lengths(run: Path | None) -> list[str]:
    if run is None:
        return [
            "every episode is taken to fill rollout.max_length, which is the most; --run RUN takes the lengths of a run's records"
        ]
    return [f"episodes are taken to be as long as those of {run}, and caches to hold the longest that may come"]


def _excluded(teachers: dict[str, Choice], setup: Setup) -> list[str]:
    """What time is not counted of."""
    known = {one.name for one in setup.teachers}
    elsewhere = [name for name, choice in teachers.items() if name not in known and not traits_of(choice).model]
    told = ["the time of environments is not counted"]
    if elsewhere:
        told.append(
            f"the time of {', '.join(f'teachers.{name}' for name in elsewhere)} is not counted, as no model of theirs is here"
        )
    told += [f"what teachers.{one.name} plays is counted as the student's" for one in setup.teachers if one.acts]
    if setup.engine in HOLDERS:
        told.append(f"the time in which the {HOLDERS[setup.engine]} is given new weights is not counted")
    if setup.checkpoints is not None and setup.checkpoints.offload:
        told.append("the time in which inputs of layers go to the host's memory and come back is not counted")
    return told


def _unlinked(on: Hardware, gpus: int) -> list[str]:
    return (
        ["the link between devices is not known, so what they exchange takes no time here"]
        if gpus > 1 and on.link is None
        else []
    )
