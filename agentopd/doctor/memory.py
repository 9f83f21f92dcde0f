"""What a step takes of memory, by the estimate of ``agentopd plan``, and what there is."""

from collections.abc import Iterator

import torch

from agentopd.doctor.check import Check
from agentopd.doctor.patient import Patient
from agentopd.planning.memory import Device, Part, parts, peak
from agentopd.planning.room import available, shown
from agentopd.planning.setup import setup_of
from agentopd.planning.step import by_limits

MEMORY = "memory"
TIGHT = 0.7
"""The share of what there is from which on an estimate is too close to it."""


def memory(patient: Patient) -> Iterator[Check]:
    """The estimate beside what there is; weights that have no room are not loaded by other checks."""
    there = available()
    setup, _ = setup_of(patient.config, lambda: patient.tokenizer)
    weights = setup.student.bytes + sum(one.bytes for one in setup.teachers if not one.borrowed)
    if weights > there:
        patient.too_large = f"weights of {shown(weights)} have no room here, so no model is loaded: see memory"
    yield judged(parts(setup, by_limits(patient.config), Device(there, not torch.cuda.is_available())), there)


def judged(found: tuple[Part, ...], there: float) -> Check:
    """An estimate beside the bytes that there are."""
    stage, total = peak(found)
    largest = [part for part in found if stage in part.stages and part.bytes >= 0.05 * total]
    told = ", ".join(f"{part.name} {shown(part.bytes)}" for part in largest)
    text = f"a step takes roughly {shown(total)}, of {shown(there)} that there are (an estimate, most of it to {stage}: {told})"
    if total <= TIGHT * there:
        return Check(MEMORY, "pass", text)
    return Check(
        MEMORY, "fail" if total > there else "warn", text, "; ".join(dict.fromkeys(part.remedy for part in largest))
    )
