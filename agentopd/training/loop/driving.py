"""What transformers' training loop is given: the river in place of a data loader, and who hears of each optimiser step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from agentopd.errors import TrainingError
from agentopd.profiling import since, span
from agentopd.training.loop.river import Drawn

if TYPE_CHECKING:
    from agentopd.training.loop.trainer import AgentOPDTrainer


class Loader(Iterable[Drawn]):
    """Each batch is drawn when it is asked for, under the weights of that moment. It ends with the last step, or when training is to stop."""

    def __init__(self, trainer: AgentOPDTrainer) -> None:
        self._trainer = trainer

    def __iter__(self) -> Iterator[Drawn]:
        while (step := self._trainer.state.global_step) < self._trainer.state.max_steps:
            if self._trainer.control.should_training_stop:  # a resumed run whose budget was spent at its checkpoint
                return
            yield self._trainer.recorder.draw(self._trainer.river, step)


class TellRiver(TrainerCallback):
    """After an optimiser step caches die and teachers follow, before anything is evaluated or saved."""

    def __init__(self, trainer: AgentOPDTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refuses what would train nothing. Who acts has the weights that training begins with, and their version is its step."""
        if self._trainer.is_merged:
            raise TrainingError(
                "merge() has added the adapter to the student's weights, so nothing is left to train; train before merging, or give "
                "the merged model to a new trainer"
            )
        self._trainer.river.begin(self._trainer.student, state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """For the trace."""
        self._begin = time.perf_counter()

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """For the trace."""
        since("optimizer", self._begin)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Whoever acts or teaches by the student follows."""
        with span("weights"):
            self._trainer.follow_learning()
            self._trainer.river.weights_changed(self._trainer.student)
