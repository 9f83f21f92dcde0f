"""The trainer of a run, for one step that it has learned from before: it is given the step's records, and writes nothing into the run."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback, TrainerControl, TrainerState

from agentopd.config import Config, changed
from agentopd.errors import ConfigError, RecordError, TeacherError
from agentopd.objective import Head, Prepared
from agentopd.records import thin
from agentopd.rollout import rollout_metrics
from agentopd.settings.choice import Choice
from agentopd.teachers import Prompt, Teacher, annotate, annotations_of, teaching_metrics, traits_of
from agentopd.training.checks.roles import annotators, used_teachers
from agentopd.training.loop.build import build_river
from agentopd.training.loop.learner import dropouts
from agentopd.training.loop.parts import staleness
from agentopd.training.loop.recorder import Recorder, signal_columns
from agentopd.training.loop.river import Drawn, River
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.callbacks import metric_name
from agentopd.types import Annotation, Key, Record

TELLING = ("hub_", "push_to_hub", "report_to", "run_name", "load_best_model_at_end")
"""How the names of arguments begin that tell others of a run, or choose its weights in the end; they decide no number of a step."""


def silent(config: Config) -> Config:
    """``config`` without what would tell others of a run."""
    kept = {name: value for name, value in config.train.arguments.items() if not name.startswith(TELLING)}
    return changed(config, train=config.train.model_copy(update={"arguments": kept}))


def asked_again(config: Config) -> dict[str, Choice]:
    """The teachers to make: all that the method uses, but for those elsewhere whose distributions are on record as they were given."""
    return {name: choice for name, choice in used_teachers(config).items() if not _kept_whole(choice)}


def _kept_whole(choice: Choice) -> bool:
    traits = traits_of(choice)
    return traits.distributes and not (traits.model or traits.members or traits.corrects or traits.rewards)


class Relearning(AgentOPDTrainer):
    """See above; ``recorder`` holds what was seen."""

    builds = staticmethod(partial(build_river, makes=asked_again))

    def require_repeatable(self) -> None:
        """Raises ConfigError where a step draws numbers that nobody kept."""
        noise = self.args.neftune_noise_alpha
        found = [*dropouts(self.student), *([f"neftune_noise_alpha={noise}"] if noise else [])]
        if found:
            raise ConfigError(
                f"the student is trained with dropout or noise ({found[0]}), and what was drawn is not on record, so the loss of a step cannot "
                "be computed again; only runs without can be held against their records"
            )


class Given(Recorder):
    """Gives a step's records in place of new episodes, and takes what is seen of them in place of a folder.

    Of teachers that are not asked again, schedules read the recorded ``metrics``.
    """

    def __init__(
        self, config: Config, heads: Mapping[str, Head], records: Sequence[Record], metrics: Mapping[str, float]
    ) -> None:
        super().__init__(config, None, heads)
        self._config, self.records, self._metrics = config, records, metrics
        self.columns: Mapping[str, NDArray[Any]] = {}
        """The signals of each token, as records keep them."""
        self.said: dict[str, list[Annotation]] = {}
        """What each teacher says that was asked again, by its name, as records keep it."""

    def draw(self, river: River, step: int) -> Drawn:
        """The records, with the whole distributions of teachers in this process in place of what is kept of them.

        Raises:
            RecordError: The records lack what such a teacher said.
            TeacherError: A teacher failed.
        """
        teachers = annotators(river.objective, river.teachers)
        again = {name: teacher for name, teacher in teachers.items() if teacher.heads}
        trajectories = [record.trajectory for record in self.records]
        fresh = annotate(again, trajectories, self._config.rollout.max_new_tokens, self._at_once(again))
        kept = [self._thin(record) for record in fresh]
        self.said = {name: [_of(record, name) for record in kept] for name in again}
        records = tuple(_with(*pair) for pair in zip(self.records, fresh, strict=True))
        played = [one for one in trajectories if one.origin is None]
        told = {name: value for name, value in self._metrics.items() if name.startswith("teacher/")}
        metrics = {f"rollout/{name}": value for name, value in rollout_metrics(played).items()}
        return Drawn(step, records, {**told, **metrics, **staleness(played, step), **teaching_metrics(again, records)})

    def _at_once(self, teachers: Mapping[str, Teacher]) -> dict[str, dict[Key, Annotation]]:
        """What teachers say of an episode by itself who were asked so when the run played ahead: beside others the rounding is another."""
        said: dict[str, dict[Key, Annotation]] = {}
        if self._config.rollout.made_mode.ahead is None:
            return said
        for name, teacher in teachers.items():
            for one in (record.trajectory for record in self.records if record.trajectory.origin is None):
                if isinstance(teacher, Prompt) and teacher.at_once:
                    with suppress(TeacherError):  # told when the whole step is annotated
                        [annotation] = annotations_of(teacher, [one])
                        said.setdefault(name, {})[one.key] = annotation
        return said

    def _thin(self, record: Record) -> Record:
        kept = self._config.records
        block: Literal["sampled", "sparse"] = (
            "sparse" if kept.block == "sparse" else "sampled"
        )  # no other form is exact
        return thin(record, block, kept.k, self._heads, self._config.temperature)

    def keep(self, drawn: Drawn, prepared: Prepared, signals: Mapping[str, NDArray[np.float32]]) -> None:
        """Notes the signals."""
        self.columns = signal_columns(prepared, signals)


def _of(record: Record, teacher: str) -> Annotation:
    for one in record.annotations:
        if one.teacher == teacher:
            return one
    raise RecordError(
        f"record {record.trajectory.key} has nothing that teacher {teacher!r} said, whom the run's method reads; restore it from a copy"
    )


def _with(kept: Record, fresh: Record) -> Record:
    said = {one.teacher: one for one in fresh.annotations}
    for name in said:
        _of(kept, name)
    return replace(kept, annotations=tuple(said.get(one.teacher, one) for one in kept.annotations))


class Once(TrainerCallback):
    """Ends training after one step, of which it notes the metrics."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Nothing is played or saved."""
        control.should_training_stop, control.should_save, control.should_evaluate = True, False, False

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Notes the step's."""
        logs = kwargs.get("logs") or {}
        if "loss" in logs:
            numbers = {
                name: value for name, value in logs.items() if isinstance(value, int | float) and name != "epoch"
            }
            self.metrics = {metric_name(name): float(value) for name, value in numbers.items()}
