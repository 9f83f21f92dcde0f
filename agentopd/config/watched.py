"""The metrics of a step that schedules with a memory may watch: all names that a run of a method can measure."""

import re
from collections.abc import Iterator, Mapping, Sequence

from agentopd.config.asked import Teachers
from agentopd.objective.contract import is_own
from agentopd.objective.prepare import metric_names
from agentopd.objective.signals import (
    CENTRE,
    CURRENT_LOGPROB,
    STUDENT_ENTROPY,
    UNCERTAINTY,
    WEIGHT,
    loss_of,
    teacher_entropy,
)
from agentopd.objective.spec import Objective
from agentopd.run_files import SPENT_EPISODES, SPENT_STUDENT, SPENT_TEACHER
from agentopd.settings.choice import choices_in
from agentopd.settings.problems import nearest
from agentopd.settings.schedules import SCHEDULES
from agentopd.teachers import Traits, traits_of
from agentopd.teachers.taught import known_teaching

ROLLOUT = (
    "success", "reward", "turns", "tokens", "generated", "prefilled", "truncated", "failures", "cut", "parsed", "seconds/policy",
    "seconds/env", "solved_within", "staleness", "staleness_max", "tokens_per_second",
)  # fmt: skip
"""What :func:`~agentopd.rollout.rollout_metrics` tells, ``solved_within`` where somebody succeeded, and how old and how fast turns are."""
COUNTED = re.compile(r"rollout/(drift|errors|stop|failures|acted|tools)/.+")
"""What it tells of kinds that are met, some of them an environment's own."""
TURN = re.compile(r"/\d+\+?$")


def known_metrics(objective: Objective, marks: Mapping[str, Traits]) -> Iterator[str]:
    """The names that are known before a run, losses first; those of ``depth/`` without their turn.

    Args:
        objective: The method.
        marks: What the kinds of its teachers say of themselves.
    """
    teachers = [name for name, traits in marks.items() if traits.distributes]
    doubts = [teacher_entropy(name) for name in teachers]
    by_turn = ["tokens", "errors", STUDENT_ENTROPY, *doubts]
    by_turn += [f"{told}/{name}" for told in UNCERTAINTY for name in teachers]
    for name, term in zip(objective.names, objective.terms, strict=True):
        loss = f"{name}/{loss_of(term)}"
        yield f"train/{loss}"
        yield from [f"train/{name}/{CENTRE}"] if loss_of(term) == "divergence" else []
        yield from (f"objective/{name}/{what}" for what in metric_names(term))
        by_turn += [loss, *([f"{name}/{WEIGHT}"] if term.weight else [])]
    yield from (metric for name, traits in marks.items() for metric in known_teaching(name, traits))
    whole = {name for term in objective.terms if term.reads_distribution for name in term.reads.values()}
    seen = (teacher_entropy(name) for name in teachers if name in whole)
    yield from (f"train/{name}" for name in (CURRENT_LOGPROB, STUDENT_ENTROPY, *seen))
    yield from ("train/tokens", "train/micro_batches", "train/rows", "train/idle_steps", "loss")
    yield from (f"seconds/{part}" for part in ("rollout", "generate", "env", "idle", "teachers", "learner", "step"))
    yield from (SPENT_EPISODES, SPENT_STUDENT, SPENT_TEACHER)
    yield from (f"rollout/{name}" for name in ROLLOUT)
    yield from (f"depth/{name}" for name in by_turn)


def require_measured(objective: Objective, teachers: Teachers) -> None:
    """Looks at the metrics that the shipped schedules of a method watch.

    Raises:
        ValueError: No run of it measures one of them.
    """
    marks = {name: traits_of(choice) for name, choice in teachers.items()}
    known = list(known_metrics(objective, marks))
    free = tuple(
        f"teacher/{name}/" for name, traits in marks.items() if is_own(teachers[name]) and traits.metrics is None
    )
    memories = (one for one in choices_in(objective) if one.kind in SCHEDULES and hasattr(one.function, "advance"))
    for name in sorted({one.settings["metric"] for one in memories}):
        if not is_measured(name, known) and not name.startswith(free):
            room = name.partition("/")[0]
            there = [one for one in known if one.startswith(f"{room}/")] or [
                one for one in known if one.startswith("train/")
            ]
            turn = ", each with its turn behind it, such as /1" if room == "depth" else ""
            raise ValueError(
                f"objective: a schedule has metric={name!r}, and no step of this method measures that{nearest(name, known)}; there are: "
                f"{', '.join(there)}{turn}"
            )


def is_measured(name: str, known: Sequence[str]) -> bool:
    """Whether ``name`` is one of the names of :func:`known_metrics`, with its turn, or counts a kind."""
    if name.startswith("depth/"):
        return TURN.search(name) is not None and TURN.sub("", name) in known
    return name in known or COUNTED.fullmatch(name) is not None
