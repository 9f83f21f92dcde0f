"""The trainer: transformers' Trainer around the river. It is blind to the method: it sees prepared batches and an objective."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)

from agentopd.adapters import is_wrapped, merged
from agentopd.chat.tokenizer import special_ids
from agentopd.config import Config
from agentopd.errors import ConfigError, TrainingError
from agentopd.evaluation import Panel
from agentopd.freezing import Borrowed
from agentopd.models import load_model
from agentopd.objective import Batch, Prepared
from agentopd.profiling import profiled, span
from agentopd.run_files import PROFILE
from agentopd.training.checks.given import (
    Load,
    Named,
    adapter_given,
    check_given,
    check_student,
    env_given,
    episodes_given,
    student_given,
    teachers_given,
    tokenizer_given,
)
from agentopd.training.checks.preflight import with_data
from agentopd.training.loop.arguments import AgentOPDConfig, settled
from agentopd.training.loop.build import acting, build_panel, build_river, panel_size, with_env
from agentopd.training.loop.depths import depth_metrics, weights_of
from agentopd.training.loop.driving import Loader, TellRiver
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.learner import Learner, Seen, save_batch
from agentopd.training.loop.ranks import joined
from agentopd.training.loop.recorder import Recorder
from agentopd.training.loop.resumable import ResumableTrainer
from agentopd.training.loop.river import Drawn, Watch, unwatched
from agentopd.training.loop.sharding import whole
from agentopd.training.loop.spent import Spend, spent
from agentopd.training.loop.together import alike
from agentopd.training.show.card import TAGS, card
from agentopd.types import EXPERT, STUDENT, Record, Trajectory

PATIENCE = 20
"""Steps from the first on that may pass without a row to train. Where there are rows, a reward that never differs is bad luck."""

IDLE_STEPS = "train/idle_steps"
"""The metric of how many steps in a row, up to this one, trained nothing."""


class AgentOPDTrainer(ResumableTrainer):
    """Trains a student by what its teachers said of its own trajectories."""

    builds = staticmethod(build_river)
    """What makes the river that it draws from."""
    is_merged = False
    """Whether :meth:`merge` has ended training."""

    def __init__(
        self,
        model: Named,
        args: AgentOPDConfig,
        processing_class: PreTrainedTokenizerBase | str | Path | None = None,
        teacher_model: Named | None = None,
        env: str | None = None,
        train_dataset: Iterable[Trajectory | Record] | None = None,
        load: Load = load_model,
        peft_config: Any = None,
        folder: RunFolder | None = None,
        watch: Watch = unwatched,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        """Builds the river from the arguments.

        Args:
            model: The student, or its name: a folder, a hub id or a GGUF file.
            args: TrainingArguments whose field ``agentopd`` holds the configuration.
            processing_class: The student's tokenizer, or its name; by default the one that lies with the student.
            teacher_model: The weights of the configuration's teachers that are models in this process, instead of those it names; or their name.
            env: An environment id, instead of the configuration's.
            train_dataset: Episodes for the method's frozen source to draw from, instead of playing them; records will do.
            load: How those teachers get the weights that they name.
            peft_config: Trains an adapter of this kind rather than all weights; by default what ``train.lora`` says.
            folder: Where records go; none are kept without it.
            watch: Sees the episodes of rollouts and panels as they end.
            callbacks: As for transformers' Trainer.
            optimizers: As for transformers' Trainer.

        Raises:
            ConfigError: ``args.agentopd`` is missing, or what is given does not fit together. The message names what.
        """
        self.config: Config = with_data(with_env(settled(args), env_given(env)))
        tokenizer = tokenizer_given(processing_class, model)
        plain = student_given(model, self.config)
        taught = teachers_given(teacher_model, load, plain, tokenizer)
        student = adapter_given(plain, peft_config, self.config.train.lora, args.seed)
        check_student(student, tokenizer, self.config)
        untaught = None if teacher_model is None else taught
        given = None if train_dataset is None else episodes_given(train_dataset, len(tokenizer), self.config.objective)
        if folder is None:  # a whole run has checked it
            check_given(self.config, tokenizer, student, teacher_model, load, plays=given is None)
        self.student, self.folder, self._watch, self.ranks = student, folder, watch, alike(joined(), student)
        self.river = self.builds(self.config, student, tokenizer, taught, args.device, folder, watch, given, untaught)
        self.learner = Learner(self.config, self.river.teacher_heads, special_ids(tokenizer), self.ranks)
        self.recorder = Recorder(self.config, folder if self.ranks.is_first else None, self.river.teacher_heads)
        self.step_metrics, self._learned_at = dict[str, float](), time.monotonic()
        super().__init__(
            model=student,
            args=args,
            eval_dataset=[] if args.eval_strategy == "no" else [{}],  # its presence matters: evaluate() plays the panel
            processing_class=tokenizer,
            callbacks=[TellRiver(self), Spend(self.config.train.budget), *(callbacks or ())],
            optimizers=optimizers,
        )
        student.add_model_tags([*TAGS])
        self.remove_callback(PrinterCallback)  # our own say what there is to say
        self.learner.check(student, self.config.objective)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own; episodes that were begun for steps which do not come are let go, however it ends."""
        self._learned_at = time.monotonic()
        try:
            with profiled(self._profile()):
                return super().train(*args, **kwargs)
        finally:
            self.river.close()

    def _profile(self) -> Path | None:
        """The file of the trace of this call, where one is wanted."""
        if not (self.config.train.profile and self.folder and self.ranks.is_first):
            return None
        files = (self.folder.path / PROFILE.format(number) for number in count(1))
        return next(path for path in files if not path.exists())

    # The river in place of a data loader.

    def get_train_dataloader(self) -> Any:
        """The river's own loader. It is not prepared by accelerate, which would draw a batch ahead, under old weights."""
        return Loader(self)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """One global batch, none past the last step; how it is normalised is in its coefficients."""
        return list(islice(epoch_iterator, 1)), None

    def floating_point_ops(self, inputs: Any) -> int:
        """Of the last step: 6 per parameter and token."""
        return int(6 * self.student.num_parameters() * self.step_metrics.get("train/tokens", 0.0))

    # One optimiser step.

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one global batch, micro-batch by micro-batch.

        Raises:
            TrainingError: The loss is not finite, and the micro-batch is kept in the run folder; or it has no gradient; or no step
                so far had anything to train.
        """
        drawn: Drawn = inputs
        begin = time.monotonic()
        model.train()
        with span("prepare"):
            prepared, batches = self.learner.prepare(self.student, drawn.records, self.river.clock(drawn.step))
        idle_steps = self._idle_steps(prepared, batches, drawn.step)
        losses, outputs = self._learn(model, batches, drawn.step)
        signals = self.learner.gather(len(prepared.rows), outputs)
        seen = self.learner.metrics(prepared, signals, batches)
        depths = depth_metrics([one.trajectory for one in drawn.records], prepared.rows, signals | weights_of(prepared))
        seen |= {IDLE_STEPS: float(idle_steps), "seconds/learner": time.monotonic() - begin}
        seen |= self._paced(drawn) | spent(drawn.records)
        # clocks tell each process something else, and schedules that read them must not part
        self.step_metrics = self.ranks.first(lambda: {**drawn.metrics, **seen, **depths})
        self.river.learned(drawn.step, {"loss": math.fsum(losses), **self.step_metrics})
        with span("records"):
            self.ranks.first(lambda: self.recorder.keep(drawn, prepared, signals))
        return torch.tensor(math.fsum(losses), device=self.args.device)

    def _learn(self, model: nn.Module, batches: Sequence[Batch], step: int) -> tuple[list[float], list[Seen]]:
        """Backward through this process's micro-batches; the losses, and what was seen, of those of all processes."""
        mine = self.learner.deal(self.student, batches)
        losses: list[float] = []
        seen: list[Seen] = []
        for number, batch in enumerate(mine):
            last = number == len(mine) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                with span("forward"):
                    loss = self.ranks.agree(lambda: self._loss(model, batch, step, seen))  # noqa: B023
                with span("backward"):
                    self.accelerator.backward(loss * self.ranks.size)  # gradients become means over the processes
            losses.append(float(loss.detach()))
        both = self.ranks.gather(lambda: (losses, seen))
        return [one for part, _ in both for one in part], [one for _, part in both for one in part]

    def _loss(self, model: nn.Module, batch: Batch | None, step: int, seen: list[Seen]) -> Tensor:
        """The loss of one micro-batch, whose signals are added to what was ``seen``; without one, :meth:`Learner.nothing`."""
        with self.compute_loss_context_manager():
            if batch is None:
                return self.learner.nothing(model)
            output = self.learner.loss(model, batch)
        self._require_trainable(output.loss, step, batch)
        seen.append((batch.row_A, output.signals))
        return output.loss

    def _paced(self, drawn: Drawn) -> dict[str, float]:
        """How long it is since the step before was learned from, and how many tokens of this one were generated in a second of that."""
        seconds, self._learned_at = time.monotonic() - self._learned_at, time.monotonic()
        fresh = [record.trajectory for record in drawn.records if record.trajectory.origin is None]
        tokens = sum(turn.stop - turn.start for one in fresh for turn in one.turns)
        return {"seconds/step": seconds, "rollout/tokens_per_second": tokens / seconds}

    def _idle_steps(self, prepared: Prepared, batches: Sequence[Batch], step: int) -> int:
        """How many steps in a row trained nothing, up to ``step``; an error where that is all there were and patience has ended."""
        if prepared.trains_nothing is None:
            return 0
        count = int(self.river.last_metrics.get(IDLE_STEPS, 0)) + 1
        if not batches and count == step + 1 == min(PATIENCE, self.state.max_steps):
            idle = f"none of the first {count} steps trained anything: {prepared.trains_nothing}"
            raise self.ranks.shared(TrainingError(idle))
        return count

    def _require_trainable(self, loss: Tensor, step: int, batch: Batch) -> None:
        if not loss.requires_grad:
            raise TrainingError(
                f"the loss of step {step} reaches no trainable parameter of the student; look at which of them are frozen"
            )
        if math.isfinite(value := float(loss.detach())):
            return
        kept = f"; the micro-batch is kept in {save_batch(batch, self.folder.path, step)}" if self.folder else ""
        raise TrainingError(f"the loss is {value} at step {step}{kept}; lower train.learning_rate, or look at its rows")

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = whole(super()._clip_grad_norm(model))  # type: ignore[no-untyped-call]
        scaled = self.accelerator.scaler is not None  # float16's loss scale overflows now and then, and skips that step
        if norm is not None and not scaled and not math.isfinite(float(norm)):
            told = f"the gradient norm is {float(norm)} at step {self.state.global_step}; lower train.learning_rate"
            raise self.ranks.shared(TrainingError(told))
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the river and the objective saw in this step."""
        if "loss" in logs:
            logs = {**logs, **self.step_metrics}
        super().log(logs, start_time)

    # Panels.

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Plays a panel of validation tasks, apart from the one that is reported; the metric ``eval_success`` decides which checkpoint is the best."""
        panel = self.play_panel(self.config.evaluation.during, split="validation")
        metrics = panel_metrics(panel, metric_key_prefix)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def play_panel(
        self, tasks: int | None = None, actor: str = STUDENT, split: str = "evaluation", sampled: bool = False
    ) -> Panel:
        """Plays the fixed panel of held-out tasks.

        Args:
            tasks: How many; by default ``evaluation.tasks``.
            actor: The student, a teacher that can act, or ``expert``, the environments' own.
            split: Which tasks.
            sampled: Whether actions are drawn as in training, rather than at ``evaluation.temperature``.

        Raises:
            ConfigError: ``tasks`` is below 1, or nobody who can act is called ``actor``, or no longer after :meth:`merge`.
        """
        count, models = panel_size(self.config, tasks), self._acting()
        teacher = self.river.teachers.get(actor)
        if actor not in models:
            raise ConfigError(f"actor={actor!r}: nobody who can act is called so; there are: {', '.join(models)}")
        model = models[actor]
        if self.is_merged and isinstance(model, Borrowed):
            raise ConfigError(
                f"actor={actor!r}: this teacher is the student {model.how}, and merge() has added that to its weights; play "
                "it before merging, or with a new trainer"
            )
        with span("panel"), self.river.paused(), self._watch("panel", count) as on_done:
            hint = teacher.hint if teacher else None
            return build_panel(
                acting(self.config, actor), model, self.river.chat, count, split, on_done, sampled, hint, self.ranks
            )

    def _acting(self) -> dict[str, PreTrainedModel | None]:
        """Who can act, each with its model; the environments' expert has none."""
        teachers = {name: t.model for name, t in self.river.teachers.items() if t.model is not None}
        return {STUDENT: self.student, EXPERT: None} | teachers

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """The best student so far is saved at once, whether or not a checkpoint is due: it is kept until there is a better one."""
        best: bool = super()._determine_best_metric(metrics, trial)
        self.control.should_save |= best and self.args.save_strategy != "no"
        return best

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and validation success of the best checkpoint by the panels so far; ``None`` where there is none."""
        step, success = self.state.best_global_step, self.state.best_metric
        return None if step is None or success is None else (step, success)

    @property
    def weights_of(self) -> int:
        """The step whose weights the student has after training: the last, or the best with ``load_best_model_at_end``."""
        state = self.state
        loaded = self.args.load_best_model_at_end and state.best_model_checkpoint is not None
        return int((loaded and state.best_global_step) or state.global_step)

    # What is given away: plain weights, and the card that is pushed with them.

    def merge(self) -> PreTrainedModel:
        """Adds a trained adapter to the student's weights, in place, and returns the plain model; training has ended with it.

        A student without an adapter is returned as it is. One in four bits is unpacked to its dtype.
        """
        self.is_merged |= is_wrapped(self.student)
        plain = merged(self.student)
        self.student = self.model = self.model_wrapped = plain
        return plain

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Writes ``README.md`` into the output folder: the method, the environments, and the tags of agentopd.

        Args:
            language: For the card's head, as all that follows unless it is said otherwise.
            license: As above.
            tags: Beside our own.
            model_name: By default that of the repository, or of the output folder.
            finetuned_from: The hub id of the model it was trained from; by default where that was loaded from.
            tasks: Not used: a student generates text.
            dataset_tags: Not used.
            dataset: As ``language``.
            dataset_args: Not used.
        """
        output = Path(str(self.args.output_dir))
        place = self.args.hub_model_id or output.absolute().name
        base = finetuned_from or str(self.student.name_or_path)
        adapter = is_wrapped(self.student)
        metadata = {"language": language, "license": license, "tags": tags, "datasets": dataset}
        name = model_name or place.split("/")[-1]
        made = card(self.config, name, base, self.state.global_step, self.best, adapter, **metadata)
        made.save(output / "README.md")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self.create_model_card()  # transformers pushes checkpoints without one
        super()._push_from_checkpoint(checkpoint_folder)


def panel_metrics(panel: Panel, prefix: str) -> dict[str, float]:
    """A panel in a few numbers, each named ``prefix_...``."""
    found = {"success": panel.success.value, "low": panel.success.interval.low, "high": panel.success.interval.high}
    return {f"{prefix}_{name}": value for name, value in found.items()}
