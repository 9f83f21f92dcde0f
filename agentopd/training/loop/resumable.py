"""The part of the trainer that keeps and resumes: checkpoints that hold the river's state beside transformers' own."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer, TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from agentopd.config import Config
from agentopd.errors import ConfigError
from agentopd.training.loop.arguments import take_precision
from agentopd.training.loop.checkpoints import (
    RIVER,
    STATE,
    loading,
    made_with,
    require_same,
    river_text,
    whole_river_of,
    without_tensors,
)
from agentopd.training.loop.folder import write_atomically
from agentopd.training.loop.ranks import Ranks
from agentopd.training.loop.river import River
from agentopd.training.loop.sharding import hand_over, shard_state, sharded, whole_state

RANDOM = "rng_state{}.pth"
"""The file of a checkpoint that holds the state of what draws at random."""


class ResumableTrainer(Trainer):
    """A Trainer whose checkpoints are complete: the river's state is written before the file that says so."""

    config: Config
    river: River
    student: Any
    """A causal language model, in an adapter or not."""
    ranks: Ranks
    _learning: nn.Module | None = None
    """What is trained in the student's place, in shards; ``None`` where that is the student."""

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Shards what is trained, where ``train.sharded`` says so: each process optimises its share."""
        if not self._shards:
            return super().create_optimizer(model)
        if self._learning is None:
            if self.optimizer is not None:
                raise ConfigError(
                    "optimizers: an optimizer is given for the whole student, and train.sharded=true; leave one of them out"
                )
            self.accelerator.prepare_model(self.student, evaluation_mode=True)  # autocast, and no wrapper
            self.model_wrapped = self._learning = sharded(self.student, self.ranks.size)
        else:
            hand_over(self.student, self._learning)  # which may have been loaded since
        return super().create_optimizer(self._learning)

    @property
    def _shards(self) -> bool:
        """A single process holds all there is."""
        return self.config.train.sharded and self.ranks.size > 1

    def create_accelerator_and_postprocess(self) -> None:
        """With the precision of this trainer's own arguments."""
        take_precision(self.args)
        super().create_accelerator_and_postprocess()

    def follow_learning(self) -> None:
        """After an optimiser step: gives the student the weights that were learned, where those are sharded."""
        if self._learning is not None:
            hand_over(self._learning, self.student)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the student, by the first of several processes; the others wait."""
        self.ranks.agree(lambda: super(ResumableTrainer, self).save_model(output_dir, _internal_call))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.ranks.agree(lambda: super(ResumableTrainer, self)._save_checkpoint(model, trial))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._shards:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer, scheduler = cast(Any, self.optimizer), cast(Any, self.lr_scheduler)  # there is no step without them
        state = whole_state(optimizer.state_dict())
        if self.ranks.is_first:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _save_rng_state(self, output_dir: str) -> None:
        """Of the first process, whose file is called as that of a single one: a checkpoint is the same for any number of processes."""
        if not self.ranks.is_first:
            return
        checkpoint = Path(output_dir)
        checkpoint.mkdir(parents=True, exist_ok=True)
        state = without_tensors(checkpoint, self.river.state())
        write_atomically(checkpoint / RIVER, river_text(self.config, state, made_with(self.student, self.args)))
        super()._save_rng_state(output_dir)
        if self.ranks.size > 1:
            (checkpoint / RANDOM.format("_0")).replace(checkpoint / RANDOM.format(""))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.ranks.agree(lambda: self._load(Path(resume_from_checkpoint), model))

    def _load(self, checkpoint: Path, model: nn.Module | None) -> None:
        require_same(checkpoint, self.config, made_with(self.student, self.args))
        with loading(checkpoint, STATE):
            TrainerState.load_from_json(str(checkpoint / STATE))
        weights = ", ".join(sorted(path.name for path in checkpoint.glob("*.safetensors")))
        with loading(checkpoint, weights or "its weights"):
            super()._load_from_checkpoint(str(checkpoint), model)
        with loading(checkpoint, RIVER):
            self.river.restore(whole_river_of(checkpoint), self.student)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        self.ranks.agree(lambda: self._load_optimizer(checkpoint))

    def _load_optimizer(self, checkpoint: str) -> None:
        with loading(Path(checkpoint), f"{OPTIMIZER_NAME} or {SCHEDULER_NAME}"):
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME):  # transformers goes on without them
                (Path(checkpoint) / name).stat()
            super()._load_optimizer_and_scheduler(checkpoint)
        if self._shards:
            shard_state(cast(torch.optim.Optimizer, self.optimizer))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.ranks.size > 1:  # nothing that is drawn there is drawn from these, but dropout
            return
        with loading(Path(checkpoint), RANDOM.format("")):
            super()._load_rng_state(checkpoint)
