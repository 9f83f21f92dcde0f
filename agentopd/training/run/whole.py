"""A whole run: stages, training, panels and the report."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd.adapters import is_adapter, is_wrapped, merged_copy
from agentopd.chat import Chat
from agentopd.chat.tokenizer import keep_beside
from agentopd.config import Config
from agentopd.config.shipped import load_recipe
from agentopd.errors import ConfigError, TrainingError, describe
from agentopd.evaluation import Panel
from agentopd.models import ModelConfig, load_model, load_tokenizer
from agentopd.objective.spec import Objective
from agentopd.quantization import is_quantized
from agentopd.rollout import Assignment, Rollout, TaskStream, assign, collect, rollout_metrics
from agentopd.rollout.policy import Policy
from agentopd.run_files import AFTER_PANEL, BEFORE_PANEL, PANEL_STAGE, SAMPLED, STUDENT_STAGE, TEACHER_STAGE
from agentopd.teachers import Spending, members_of, traits_of
from agentopd.training.checks.packed import check_packed
from agentopd.training.checks.preflight import (
    check_acting,
    check_adapter,
    check_experts,
    check_models,
    check_prompts,
    check_teachers,
    with_data,
    without_experts,
)
from agentopd.training.checks.recorded import check_recorded
from agentopd.training.checks.roles import is_student, named_teachers
from agentopd.training.checks.trial import try_own_parts
from agentopd.training.loop.arguments import arguments
from agentopd.training.loop.build import acting, build_panel, build_policy, panel_size, panel_tasks
from agentopd.training.loop.checkpoints import loading
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.lock import held
from agentopd.training.loop.ranks import Ranks, joined
from agentopd.training.loop.recorder import rescue
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.callbacks import MetricsFile, Progress
from agentopd.training.run.interruption import resumable
from agentopd.training.run.kept import STEP, Kept
from agentopd.training.run.stages import student_of, teacher_of, tokenizer_of
from agentopd.training.show.display import attended, say, watch
from agentopd.training.show.gap import doubt_line, gap_lines
from agentopd.types import EXPERT, STUDENT, Record, Trajectory
from agentopd.viewer import write_report


@dataclass(frozen=True, slots=True)
class Result:
    """What a run made."""

    run_dir: Path
    metrics: Mapping[str, float]
    """The last step's."""
    panels: Mapping[str, Panel]
    """``student_before``, ``student_after`` and every teacher that can act and is not the student itself, each with ``_sampled`` too where ``evaluation.sampled`` asks for it."""
    student: PreTrainedModel
    """As plain weights; one in four bits inside its adapter."""
    tokenizer: PreTrainedTokenizerBase


@attended()
def train(config: Config, output: str | Path | None = None, resume: bool = False) -> Result:
    """Runs ``config``: its stages, then training, then the panel of held-out tasks, then the report.

    Args:
        config: From :func:`agentopd.load_config`.
        output: The run folder; by default ``runs/run-N`` with the first free N.
        resume: Whether to go on with the run in ``output`` from its last checkpoint. Of a finished run only the report is
            written again.

    Raises:
        ConfigError: The configuration and the environments do not fit, or the folder holds another run, or another process
            is at work in it.
        TrainingError: The loss is not finite, or has no gradient; or the disk is full; or what ``resume`` needs is damaged.
    """
    ranks = joined()
    config, folder = ranks.agree(lambda: _begun(config, output, resume, ranks))
    if ranks.first(lambda: AFTER_PANEL in folder.load_panels()):
        say(f"{folder.path} is already finished, so nothing is trained")
        return _result(folder, *_finished(config, folder), ranks)
    tokenizer = ranks.agree(lambda: _preflight(config, folder, resume))
    with ExitStack() as alone:
        ranks.first(lambda: alone.enter_context(held(folder.path)))
        with resumable(folder):
            step = ranks.first(lambda: folder.open(config, resume))
            if resume:
                say(f"{folder.path}: goes on after step {step} of {config.train.steps}")
            try:
                trainer = ranks.agree(lambda: build_trainer(config, folder, tokenizer))
            except Exception:
                if not resume and ranks.is_first:
                    folder.release()
                raise
            _train(trainer, folder, step)
        return _result(folder, trainer.student, tokenizer, ranks)


def _begun(config: Config, output: str | Path | None, resume: bool, ranks: Ranks) -> tuple[Config, RunFolder]:
    """The configuration as it can be run, and the folder of the run, which every process names alike."""
    config = with_data(without_expert(config))
    folder = RunFolder(ranks.first(lambda: output or free_folder(Path("runs"), "run")))
    folder.check(config, resume)
    return config, folder


@attended()
def check(config: Config, output: str | Path | None = None, resume: bool = False) -> None:
    """Finds what can be found wrong with a run before its first stage, and leaves nothing but a tokenizer in the cache.

    Args:
        config: As for :func:`train`.
        output: As for :func:`train`.
        resume: As for :func:`train`.

    Raises:
        ConfigError: As of :func:`train`.
    """
    ranks = joined()
    config, folder = ranks.agree(lambda: _begun(config, output, resume, ranks))
    ranks.agree(lambda: _preflight(config, folder, resume))


def _preflight(config: Config, folder: RunFolder, resume: bool) -> PreTrainedTokenizerBase:
    """Everything that can be found wrong before a stage is fitted and the folder is made; the student's tokenizer on the way."""
    check_packed(config)
    arguments(config, folder.checkpoints)
    check_acting(config)
    check_experts(config)
    check_teachers(config)
    checkpoint = folder.last_checkpoint() if resume else None  # its weights know its own token ids
    if checkpoint is None:
        tokenizer = tokenizer_of(config, say)
    else:
        with loading(checkpoint, "its tokenizer"):
            tokenizer = load_tokenizer(str(checkpoint))
    readers = check_models(config, tokenizer)
    check_adapter(config, tokenizer)
    try_own_parts(config, len(tokenizer))
    chat = check_prompts(config, tokenizer, readers=readers)
    for told in check_recorded(config, chat):
        say(told)
    if chat.falls_back:
        say(f"what the chat template does not take is put in another way (docs/chat-templates.md): {chat.describe()}")
    if chat.forks:
        say(
            "the chat template rewrites earlier turns, so every turn starts a new segment: its whole prompt is read again, by student and "
            "teachers (docs/chat-templates.md)"
        )
    return tokenizer


def _train(trainer: AgentOPDTrainer, folder: RunFolder, step: int) -> None:
    """Panel, training from ``step`` on, panels. The student's last panel is the last thing to be kept: with it a run is finished."""
    trainer.recorder.resume_at(step)
    before = _panel(trainer, folder, BEFORE_PANEL)
    _sampled(trainer, folder, BEFORE_PANEL)
    for name, teacher in trainer.river.teachers.items():
        if teacher.model is None or is_student(name, trainer.config.teachers[name]):
            continue
        if trainer.ranks.first(lambda: name not in folder.load_panels()):  # noqa: B023
            for line in gap_lines(name, _panel(trainer, folder, name, actor=name), before):
                say(line)
        _sampled(trainer, folder, name, actor=name)
    checkpoint = trainer.ranks.first(folder.last_checkpoint)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        for name, teacher in trainer.river.teachers.items():
            if isinstance(teacher, Spending):
                say(f"{name} took {teacher.spending()}, in all")
    _save(trainer, folder)
    trainer.ranks.first(lambda: folder.save_weights(trainer.weights_of, trainer.best))
    _sampled(trainer, folder, AFTER_PANEL)
    _panel(trainer, folder, AFTER_PANEL)


def _save(trainer: AgentOPDTrainer, folder: RunFolder) -> None:
    """The student as a plain model; beside it, where one was trained, the adapter alone, which is what is pushed then."""
    if not is_wrapped(trainer.student):
        trainer.save_model(str(folder.student))
        return
    trainer.save_model(str(folder.adapter))
    if is_quantized(
        trainer.student
    ):  # whole, it may be too large for the device: the last panels are played beside its four bits
        trainer.ranks.first(lambda: _save_whole(trainer, folder))
        return
    trainer.merge()
    trainer.save_model(str(folder.student), _internal_call=True)


def _save_whole(trainer: AgentOPDTrainer, folder: RunFolder) -> None:
    merged_copy(trainer.student).save_pretrained(folder.student)
    trainer.river.chat.tokenizer.save_pretrained(folder.student)


def _result(folder: RunFolder, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ranks: Ranks) -> Result:
    """What a finished run made, its report written by the first process."""
    ranks.first(lambda: _report(folder))
    return Result(folder.path, _last(folder.history()), folder.load_panels(), student, tokenizer)


def _report(folder: RunFolder) -> None:
    try:
        say(f"report: {write_report(folder.path)}")
        if folder.records.is_dir():
            say(f"every episode, token by token: agentopd view {shlex.quote(str(folder.path))}")
    except Exception as error:  # the run is whole without it
        say(f"the run is finished and kept, and only its report could not be written: {describe(error)}")


def _finished(config: Config, folder: RunFolder) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    student = folder.student.absolute()  # a relative folder that is gone would be looked for on the hub
    try:
        return load_model(_weights_at(config, student)), load_tokenizer(str(student))
    except ConfigError as error:
        raise TrainingError(
            f"{folder.path} is finished, and its student cannot be loaded: {error}; restore {student.name}/ from a copy, or delete "
            f"{folder.panels} and resume, to have it made again from the last checkpoint"
        ) from error


def _weights_at(config: Config, folder: Path) -> ModelConfig:
    """The student of ``config`` with the weights in ``folder``, of the same type and with the same attention.

    An adapter was trained beside four bits where the student has them; a folder of plain weights is what a run left, and is not packed."""
    quantization = config.student.quantization if is_adapter(str(folder)) else None
    return config.student.model_copy(update={"model": str(folder), "new": None, "quantization": quantization})


def _last(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Everything that was logged at the last step."""
    rows = [row for row in history if row["step"] == history[-1]["step"]]  # none where the file was deleted
    return {name: value for row in rows for name, value in row.items()}


def build_trainer(config: Config, folder: RunFolder, tokenizer: PreTrainedTokenizerBase) -> AgentOPDTrainer:
    """The trainer of a run: student and teachers after their stages."""
    with folder.timed(STUDENT_STAGE):
        student = student_of(config, tokenizer, say)

    def load(wanted: ModelConfig) -> PreTrainedModel:
        with folder.timed(TEACHER_STAGE):
            return teacher_of(config, wanted, tokenizer, say)

    callbacks = [Progress("training"), *([MetricsFile(folder)] if joined().is_first else [])]
    args = arguments(config, folder.checkpoints)
    return AgentOPDTrainer(student, args, tokenizer, load=load, folder=folder, watch=watch, callbacks=callbacks)


def without_expert(config: Config) -> Config:
    """``config`` itself; or, where an environment lacks the expert that its stages need, one that learns from the step reward."""
    stages = config.stages
    lacking = without_experts(config) if stages.teacher or stages.cold_start else []
    if not lacking:
        return config
    unfitted = [n for n, choice in config.teachers.items() if choice.settings.get("new") is not None]
    say(f"{', '.join(lacking)} has no expert: the stages teacher and cold_start are left out")
    kept = {
        name: choice
        for name, choice in config.teachers.items()
        if name not in unfitted and not traits_of(choice).needs_expert
    }
    kept = {name: choice for name, choice in kept.items() if kept.keys() >= {*members_of(choice)}}
    update: dict[str, Any] = {
        "stages": stages.model_copy(update={"teacher": None, "cold_start": None}),
        "teachers": kept,
    }
    if not named_teachers(config.objective) <= set(kept):
        say(
            "no teacher is left to learn from, so the method is grpo: the environment's reward alone. Weights from nothing will hardly learn so"
        )
        update["objective"] = Objective.model_validate(load_recipe("grpo"))
    return config.model_copy(update=update)


def free_folder(parent: Path, stem: str) -> Path:
    """``parent/stem-N`` with the first N that is free."""
    return next(path for n in range(1, 100_000) if not (path := parent / f"{stem}-{n}").exists())


def _panel(
    trainer: AgentOPDTrainer, folder: RunFolder, name: str, actor: str = STUDENT, sampled: int | None = None
) -> Panel:
    """The panel that the folder keeps under ``name``; played and kept where it has none."""
    kept = trainer.ranks.first(lambda: folder.load_panels().get(name))
    if kept is not None:
        return kept
    with folder.timed(PANEL_STAGE):
        panel = trainer.play_panel(sampled, actor=actor, sampled=sampled is not None)
    trainer.ranks.first(lambda: folder.save_panel(name, panel))
    how = "" if sampled is None else ", sampled as in training"
    say(f"{name}: success {panel.success.text()} on {panel.success.n} held-out tasks{how}")
    return panel


def _sampled(trainer: AgentOPDTrainer, folder: RunFolder, name: str, actor: str = STUDENT) -> None:
    """Plays the panel ``name`` once more, on the first ``evaluation.sampled`` of its tasks and as the rollout samples."""
    count = trainer.config.evaluation.sampled
    if not count or trainer.ranks.first(lambda: name + SAMPLED in folder.load_panels()):
        return
    panel = _panel(trainer, folder, name + SAMPLED, actor, sampled=count)
    if actor != STUDENT and (line := doubt_line(actor, folder.load_panels()[name], panel)):
        say(line)


@attended()
def evaluate(config: Config, model: str | Path | None = None, tasks: int | None = None) -> Panel:
    """Plays the fixed panel with a student.

    Args:
        config: From :func:`agentopd.load_config`.
        model: A folder of weights with its tokenizer, such as ``RUN/student``; by default the configuration's student.
        tasks: How many; by default ``evaluation.tasks``.

    Raises:
        ConfigError: There are no weights, or ``tasks`` is below 1.
    """
    if model is None and config.student.new is not None:
        raise ConfigError("student.new has no weights to evaluate; train first, then give the run folder")
    count = panel_size(config, tasks)
    panel_tasks(config, count, "evaluation")  # before anything is loaded
    where = config.student if model is None else _weights_at(config, Path(model))
    changed = config.model_copy(update={"student": where})
    tokenizer = tokenizer_of(changed, say)
    chat = check_prompts(config, tokenizer, taught=False)
    with watch("panel", count) as on_done:
        return build_panel(acting(config, STUDENT), load_model(where), chat, count, on_done=on_done)


@attended()
def play(config: Config, episodes: int, output: Path, actor: str, model: Path | None = None) -> dict[str, float]:
    """Plays ``episodes`` training tasks as ``student`` or ``expert`` and writes them to ``output``; returns what they looked like.

    Where a call that asked the same did not end, what it played is kept, and the rest is played.
    """
    kept = Kept(output, config, episodes=episodes, actor=actor, model=None if model is None else str(model.absolute()))
    kept.check()
    if episodes < 1:
        raise ConfigError(f"episodes={episodes}: play at least 1")
    if actor == EXPERT and (lacking := without_experts(config)):
        raise ConfigError(
            f"--actor expert: {', '.join(lacking)} has no expert; define expert() on it, or let the student act"
        )
    where = config.student if model is None else _weights_at(config, Path(model))
    changed = config.model_copy(update={"student": where})
    tokenizer = tokenizer_of(changed, say)
    chat = check_prompts(config, tokenizer, taught=False)
    policies: dict[str, Policy] = {}
    if actor == STUDENT:
        student = load_model(where) if where.new is None else student_of(config, tokenizer, say)
        policies[STUDENT] = build_policy(student, chat, acting(config, STUDENT).rollout)
    stream = TaskStream(config.envs, config.seed, "train")
    assignments = assign(stream, range(episodes), "fresh", {actor: 1.0}, 1, output.name, STEP, config.seed)
    try:
        trajectories = _played(kept, assignments, policies, chat, acting(config, actor).rollout)
        keep_beside(tokenizer, output)  # before what ends it: then nothing goes on any more
        kept.writer.write(STEP, [Record(trajectory) for trajectory in trajectories])
    finally:
        kept.close()
    return rollout_metrics(trajectories)


def _played(
    kept: Kept, assignments: Sequence[Assignment], policies: Mapping[str, Policy], chat: Chat, settings: Rollout
) -> list[Trajectory]:
    """An episode for each assignment: the one that is kept, or else one that is played."""
    done = kept.earlier(assignments)
    if done:
        say(f"{len(done)} of the {len(assignments)} episodes were played before, and are kept")
    left, played = [one for one in assignments if one.key not in done], list[Trajectory]()
    with watch("episodes", len(left)) as seen:

        def on_done(trajectory: Trajectory) -> None:
            seen(trajectory)
            played.append(trajectory)
            kept.writer.note(STEP, Record(trajectory))

        try:
            done |= {one.key: one for one in collect(left, policies, chat, settings, on_done=on_done)}
        except BaseException as error:
            if played:
                rescue(kept.writer, STEP, played, error)
                say("the same command goes on with the rest")
            raise
    return [done[one.key] for one in assignments]
