"""A plan as tables, sentences and plain values."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from agentopd.planning.memory import STAGES, during
from agentopd.planning.room import shown
from agentopd.planning.whole import Plan

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def tables(plan: Plan) -> Iterator[Table]:
    """Memory part by part, and time stage by stage."""
    memory = [(part.name, shown(part.bytes), *(_mark(stage in part.stages) for stage in STAGES)) for part in plan.parts]
    sums = [shown(during(plan.parts, stage)) for stage in STAGES]
    yield ("memory of a device", "", *STAGES), [*memory, ("all", "", *sums)]
    yield (
        ("time of a step", "seconds", "TFLOP", "TB read", "waits for"),
        [
            (one.name, _figure(one.seconds), _figure(one.work.flops / 1e12), _figure(one.work.bytes / 1e12), one.bound)
            for one in plan.stages
        ],
    )


def lines(plan: Plan) -> Iterator[str]:
    """What the tables come to; the last sentence says why it is refused, where it is."""
    setup, step, slowest = plan.setup, plan.step, plan.slowest
    many = (
        ""
        if plan.gpus == 1
        else f", {plan.gpus} of them, {'sharded' if plan.sharded else 'each with the whole student'}"
    )
    yield f"device: {plan.hardware.name} with {shown(plan.hardware.memory)}{many}"
    for one in (setup.student, *setup.teachers):
        packed = f", {one.packed:,} of them in four bits" if one.packed else ""
        yield f"model: {one.name}, {one.shape.parameters:,} parameters of {one.itemsize} bytes{packed}"
    yield f"trained: {setup.trained.parameters:,} parameters"
    yield (
        f"tokens: {step.episodes:g} episodes of {step.length:.0f}, {step.generated:.0f} of them generated, in {step.turns:.0f} turns"
        f"{'' if plan.gpus == 1 else ', on each device'}"
    )
    yield f"memory: {shown(plan.peak)} at most, {plan.peak / plan.hardware.memory:.0%} of what there is"
    yield f"time: {_figure(plan.seconds)} seconds a step, most of them to {slowest.name}"
    yield f"bottleneck: {slowest.name}: bound by {slowest.bound}; {slowest.remedy}"
    for note in plan.notes:
        yield f"note: {note}"
    if plan.refused:
        yield f"refused: {plan.refused}"


def to_dict(plan: Plan) -> dict[str, Any]:
    """Plain values: bytes, seconds, FLOPs."""
    slowest = plan.slowest
    return {
        "hardware": plan.hardware.model_dump(),
        "gpus": plan.gpus,
        "sharded": plan.sharded,
        "models": {
            one.name: asdict(one.shape) | {"bytes": one.bytes} for one in (plan.setup.student, *plan.setup.teachers)
        },
        "trained": asdict(plan.setup.trained),
        "step": asdict(plan.step),
        "memory": {"peak": plan.peak, "parts": [asdict(part) for part in plan.parts]},
        "time": {"seconds": plan.seconds, "stages": [asdict(stage) for stage in plan.stages]},
        "bottleneck": {"stage": slowest.name, "bound": slowest.bound, "remedy": slowest.remedy},
        "notes": list(plan.notes),
        "refused": plan.refused,
    }


def _mark(here: bool) -> str:
    return "x" if here else "-"


def _figure(value: float) -> str:
    return f"{value:.3g}"
