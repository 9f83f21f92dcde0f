"""The part of the trainer that keeps and resumes: checkpoints that hold the river's state beside transformers' own."""

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from agentopd.config import Config
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
from agentopd.training.loop.river import River


class ResumableTrainer(Trainer):
    """A Trainer whose checkpoints are complete: the river's state is written before the file that says so."""

    config: Config
    river: River
    student: PreTrainedModel

    def _save_rng_state(self, output_dir: str) -> None:
        checkpoint = Path(output_dir)
        checkpoint.mkdir(parents=True, exist_ok=True)
        state = without_tensors(checkpoint, self.river.state())
        write_atomically(checkpoint / RIVER, river_text(self.config, state, made_with(self.student, self.args)))
        super()._save_rng_state(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        require_same(checkpoint, self.config, made_with(self.student, self.args))
        with loading(checkpoint, STATE):
            TrainerState.load_from_json(str(checkpoint / STATE))
        weights = ", ".join(sorted(path.name for path in checkpoint.glob("*.safetensors")))
        with loading(checkpoint, weights or "its weights"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        with loading(checkpoint, RIVER):
            self.river.restore(whole_river_of(checkpoint), self.student)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with loading(Path(checkpoint), f"{OPTIMIZER_NAME} or {SCHEDULER_NAME}"):
            if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):  # those name their files otherwise
                for name in (OPTIMIZER_NAME, SCHEDULER_NAME):  # transformers goes on without them
                    (Path(checkpoint) / name).stat()
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with loading(Path(checkpoint), "rng_state.pth"):
            super()._load_rng_state(checkpoint)
