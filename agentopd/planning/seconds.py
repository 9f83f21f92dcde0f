"""Seconds of a step, stage by stage: each takes as long as what bounds it, arithmetic, memory or Python."""

import math
from dataclasses import dataclass

from agentopd.planning.hardware import Hardware
from agentopd.planning.memory import GENERATE, LEARN, TEACHERS
from agentopd.planning.setup import Setup
from agentopd.planning.step import Step
from agentopd.planning.work import Work, decoding, exchanged, heads, learning, prefilling, reading

EXCHANGE = "exchange"
ARITHMETIC, BANDWIDTH, ISSUING, LINK = (
    "arithmetic",
    "memory bandwidth",
    "Python, which issues layer by layer",
    "the link",
)

MORE = "share the step among more devices (--gpus), or take a faster one"


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a step's time."""

    name: str
    seconds: float
    work: Work
    bound: str
    """What it waits for."""
    remedy: str


def timed(work: Work, rate: float, efficiency: float, on: Hardware) -> tuple[float, str]:
    """Seconds of some work, and what it waits for.

    Args:
        work: What is to be done.
        rate: FLOP/s at best.
        efficiency: The share of rates that is reached.
        on: The device.
    """
    return max(
        (work.flops / (rate * efficiency), ARITHMETIC),
        (work.bytes / (on.bandwidth * efficiency), BANDWIDTH),
        (work.layers * on.issue, ISSUING),
    )


def stages(
    setup: Setup, step: Step, on: Hardware, gpus: int = 1, sharded: bool = False, room: float = math.inf
) -> tuple[Stage, ...]:
    """The stages of a step on one of ``gpus`` devices, whose share ``step`` is; ``room``: episodes whose caches a vLLM server holds."""
    found = [_generate(setup, step, on, room)] if setup.student.acts and step.played else []
    if setup.teachers:
        found.append(_teachers(setup, step, on))
    found.append(_learn(setup, step, on))
    if gpus > 1 and on.link is not None:
        sent = exchanged(setup, step, gpus, sharded)
        remedy = "raise train.max_tokens, so that weights are gathered less often" if sharded else "set train.lora"
        found.append(Stage(EXCHANGE, sent / on.link, Work(bytes=sent), LINK, remedy))
    return tuple(found)


def _generate(setup: Setup, step: Step, on: Hardware, room: float) -> Stage:
    student, issued = setup.student, setup.engine == "transformers"
    living = max(min(setup.concurrency, step.played, room), 1.0)
    waves = step.played / living
    one = decoding(student, living, step.context, issued)
    first = prefilling(student, step, waves * step.turns, issued)
    rate, efficiency = on.rate(student.itemsize), on.efficiency.generate
    decoded, bound = timed(one, rate, efficiency, on)
    prefilled, by = timed(first, rate, efficiency, on)
    steps = waves * step.generated
    if decoded * steps < prefilled:
        bound = by
    return Stage(
        GENERATE,
        decoded * steps + prefilled,
        one.times(steps) + first,
        bound,
        _more(setup, step, living, bound, on.gains(student.itemsize)),
    )


def _more(setup: Setup, step: Step, living: float, bound: str, halves: bool) -> str:
    """What makes generation faster."""
    if bound == ISSUING:
        return MORE if setup.student.quantized else "set rollout.engine.kind: vllm"
    if bound == ARITHMETIC:
        return "set student.dtype: bfloat16" if halves else MORE
    if living * step.context * setup.student.cached > setup.student.products:
        return "lower rollout.max_length: caches are most of what is read for a token"
    if living < min(setup.concurrency, step.played):
        return "raise --gpu-memory-utilization: the server's cache holds fewer episodes than there are"
    if setup.concurrency < step.played:
        return "raise rollout.concurrency"
    return "raise train.tasks_per_step: weights are read for few episodes"


def _teachers(setup: Setup, step: Step, on: Hardware) -> Stage:
    seconds, bounds, total = 0.0, [], Work()
    for one in setup.teachers:
        work = reading(one, step)
        spent, bound = timed(work, on.rate(one.itemsize), on.efficiency.teachers, on)
        seconds, total = seconds + spent, total + work
        bounds.append((spent, bound, one))
    _, bound, slowest = max(bounds, key=lambda found: found[0])
    key = f"teachers.{slowest.name}"
    remedy = f"raise {key}.max_tokens"
    if bound == ARITHMETIC:
        remedy = (
            f"set {key}.dtype: bfloat16"
            if on.gains(slowest.itemsize)
            else f"serve it elsewhere ({key}.kind: served), or take a smaller one"
        )
    return Stage(TEACHERS, seconds, total, bound, remedy)


def _learn(setup: Setup, step: Step, on: Hardware) -> Stage:
    work, own = learning(setup, step), setup.student.itemsize
    itemsize = min(own, 2) if setup.autocast else own
    rate = on.rate(itemsize)
    slow = heads(setup, step) * (rate / on.rate(own) - 1)  # autocast does not reach the heads
    seconds, bound = timed(work + Work(slow), rate, on.efficiency.learn, on)
    remedy = "raise train.max_tokens"
    if bound == ARITHMETIC:
        remedy = "set train.arguments.bf16: true" if on.gains(itemsize) else MORE
    return Stage(LEARN, seconds, work, bound, remedy)
