"""A checkpointed step, computed again from its records: its loss, coefficients, weights and gradient norm."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agentopd import records
from agentopd.config import Config, load_config
from agentopd.errors import ConfigError
from agentopd.models import load_tokenizer
from agentopd.records import Records
from agentopd.training.checks.preflight import with_data
from agentopd.training.loop.arguments import arguments
from agentopd.training.loop.checkpoints import complete, loading, step_of
from agentopd.training.loop.folder import RunFolder
from agentopd.training.replaying.again import Given, Once, Relearning, silent
from agentopd.training.replaying.rows import TOLERANCE, Row, of_annotations, of_numbers, of_signals
from agentopd.training.run.stages import student_of, teacher_of, tokenizer_of
from agentopd.training.show.display import say

FIRST = ("train/loss", "train/grad_norm")
"""What is told first."""


@dataclass(frozen=True, slots=True)
class StepReplay:
    """A step as it was learned from, beside the same computed again."""

    step: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What could not be compared."""

    @property
    def same(self) -> bool:
        """Whether every number is what it was."""
        return all(row.same for row in self.rows)

    @property
    def told(self) -> list[Row]:
        """Loss, gradient norm, coefficients and weights, and whatever differs."""
        shown = ("coef", "weight", "log-probabilities")
        return [row for row in self.rows if row.metric in FIRST or row.metric.endswith(shown) or not row.same]

    def plain(self) -> dict[str, Any]:
        """As plain data; what is not finite, or not there, is ``None``."""
        return {
            "step": self.step,
            "same": self.same,
            "rows": [{name: _finite(value) for name, value in asdict(row).items()} for row in self.rows],
            "notes": list(self.notes),
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_run(path: str | Path) -> bool:
    """Whether a folder is that of a run, whose steps may be computed again."""
    return RunFolder(path).config.exists()


def repeatable(run: str | Path, kept: Records) -> list[int]:
    """The recorded steps whose first weights are there: step 0, and those that a checkpoint was made before."""
    begun = {0, *(step_of(path) for path in complete(RunFolder(run).checkpoints))}
    return [step for step in kept.steps if step in begun]


def replay_step(run: str | Path, step: int, tolerance: float = TOLERANCE) -> StepReplay:
    """Computes a step again from its records, under the weights that it began with, and holds it against what the run measured.

    Teachers in this process read the episodes again, as they were then; of others the records hold what they said. Nothing is played, and nothing
    is written into the run. On another device, or with other versions of packages, numbers differ by rounding.

    Args:
        run: The folder of a run, finished or not.
        step: Counted from 0, as in records: its weights are those of ``checkpoints/checkpoint-STEP``, or for step 0 those that the run began with.
        tolerance: The largest relative difference that counts as none.

    Raises:
        ConfigError: It is no run, or lacks the checkpoint or the metrics of that step; or its student is trained with dropout.
        RecordError: The step has no records, or these lack what a teacher said.
        TrainingError: The checkpoint is damaged.
        TeacherError: A teacher that is needed cannot be asked.
    """
    folder = RunFolder(run)
    if not folder.config.exists():
        raise ConfigError(
            f"{folder.path} is no run (no config.yaml), so there is nothing to learn again; give a run folder"
        )
    kept = records.open(folder.path)
    steps = repeatable(folder.path, kept)
    measured = _measured(folder)
    known = [str(one) for one in steps if one in measured]
    told = f"those that can be computed again: {', '.join(known) or 'none'}"
    episodes = list(kept.step(step))
    if step not in steps:
        raise ConfigError(
            f"step {step}: {folder.checkpoints} has no checkpoint-{step}, which holds the weights that the step began with; {told} "
            "(train.save_every makes more, train.arguments.save_total_limit keeps them)"
        )
    if step not in measured:
        raise ConfigError(
            f'step {step}: {folder.metrics} has no line of it ("step": {step + 1} with {FIRST[0]}), so there is nothing to hold it against; where '
            f"the run was interrupted in that step resume it, which does the step again, else restore the file from a copy; {told}"
        )
    was = measured[step]
    config = with_data(load_config(folder.config))
    with TemporaryDirectory() as aside:
        trainer, once = _trainer(config, folder, RunFolder(aside), step)
        given = Given(config, trainer.river.teacher_heads, episodes, was)
        trainer.recorder = given
        trainer.train(resume_from_checkpoint=str(_checkpoint(folder, step)) if step else None)
    rows, notes = [*_rows(trainer, given, kept, step, was, once.metrics, tolerance)], []
    if step not in kept.signal_steps:
        notes.append(
            "the run kept no signals (records.signals), so coefficients and weights are not compared token by token"
        )
    return StepReplay(step, tuple(sorted(rows, key=lambda row: row.metric not in FIRST)), tuple(notes))


def _checkpoint(folder: RunFolder, step: int) -> Path:
    return folder.checkpoints / f"checkpoint-{step}"


def _measured(folder: RunFolder) -> dict[int, Mapping[str, float]]:
    """What the run measured, by step: a step's metrics are those of after it."""
    return {row["step"] - 1: row for row in reversed(folder.history()) if FIRST[0] in row}


def _trainer(config: Config, run: RunFolder, aside: RunFolder, step: int) -> tuple[Relearning, Once]:
    """The trainer of the run as it was built, whose folder is ``aside``."""
    if step:
        with loading(_checkpoint(run, step), "its tokenizer"):
            tokenizer = load_tokenizer(str(_checkpoint(run, step)))
    else:
        tokenizer = tokenizer_of(config, say)
    student = student_of(config, tokenizer, say)
    args, once = arguments(silent(config), aside.checkpoints), Once()
    load = partial(teacher_of, config, tokenizer=tokenizer, say=say)
    trainer = Relearning(student, args, tokenizer, load=load, folder=aside, callbacks=[once])
    trainer.config = config  # which the checkpoint is held against
    trainer.require_repeatable()
    return trainer, once


def _rows(
    trainer: Relearning,
    given: Given,
    kept: Records,
    step: int,
    was: Mapping[str, float],
    now: Mapping[str, float],
    tolerance: float,
) -> Iterator[Row]:
    unasked = trainer.config.teachers.keys() - given.said.keys()
    yield from of_numbers(was, now, tolerance, unasked)
    if step in kept.signal_steps:
        yield from of_signals(kept.signals(step), given.columns, tolerance)
    for name, said in given.said.items():
        recorded = [one for record in given.records for one in record.annotations if one.teacher == name]
        yield from of_annotations(name, recorded, said, tolerance)
