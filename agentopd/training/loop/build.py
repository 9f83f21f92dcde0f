"""The pieces of a run, made from its configuration."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd.chat import Chat, Hint
from agentopd.cluster.acting import on_cluster
from agentopd.cluster.teaching import placed
from agentopd.config import Config, changed
from agentopd.errors import ConfigError
from agentopd.evaluation import Panel, run_panel
from agentopd.freezing import Follower, frozen, initial
from agentopd.models import head_of
from agentopd.offloading import moved, on_device
from agentopd.quantization import is_quantized
from agentopd.rollout import EnvConfig, Rollout, TaskStream
from agentopd.rollout.policy import Policy
from agentopd.rollout.scripted import ScriptedPolicy
from agentopd.settings.choice import Choice
from agentopd.teachers import Teacher, build_teachers
from agentopd.training.checks.given import Load
from agentopd.training.checks.preflight import PANELS
from agentopd.training.checks.roles import used_teachers
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.ranks import ALONE, Ranks, joined
from agentopd.training.loop.river import River, Watch
from agentopd.training.loop.together import collected, rested
from agentopd.types import EXPERT, STUDENT, Task, Trajectory


def with_env(config: Config, env: str | None) -> Config:
    """``config`` with one environment in place of its own."""
    return config if env is None else changed(config, envs=(EnvConfig(id=env),))


def build_river(
    config: Config,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    load: Load,
    device: torch.device,
    folder: RunFolder | None,
    watch: Watch,
    given: Sequence[Trajectory] | None = None,
    untaught: Load | None = None,
    makes: Callable[[Config], dict[str, Choice]] = used_teachers,
) -> River:
    """The river of ``config`` around ``student``, with the teachers that it ``makes``: by default those that the method uses.

    ``load`` gives teachers the weights that they name; ``untaught`` those that name none, which are else the student as it is now.
    """
    if is_quantized(student):  # others the trainer moves
        moved(student, device)
    chat = config.chat(tokenizer)
    mode, engine = config.rollout.made_mode, acting(config, STUDENT).rollout.made_engine
    copied = mode.ahead is not None and not engine.copies
    follower = Follower(moved(student, device)) if copied else None
    vocabulary, choices = len(head_of(student).weight_V_H), makes(config)
    here = {name: choice for name, choice in choices.items() if name not in config.cluster.teachers}
    elsewhere = {name: choice for name, choice in choices.items() if name not in here}
    made = build_teachers(
        here,
        chat,
        lambda wanted: on_device(load(wanted), wanted, device),
        config.temperature,
        lambda: moved(initial(student) if untaught is None else frozen(untaught(config.student)), device),
        lambda: moved(student, device),  # the trainer would later, and what is copied of it would stay behind
        device,
        folder.path if folder else None,
        vocabulary=vocabulary,
    )
    made |= placed(config.cluster, elsewhere, chat, load, config.temperature, vocabulary, device)
    teachers = {name: made[name] for name in choices}
    return River(
        config=acting(config, STUDENT),
        run=folder.path.resolve().name if folder else "run",
        chat=chat,
        policies=build_policies(config, student if follower is None else follower.model, chat, teachers),
        teachers=teachers,
        folder=folder.path if folder else None,
        watch=watch,
        ranks=joined(),
        given=given,
        follower=follower,
    )


def build_policies(
    config: Config, student: PreTrainedModel, chat: Chat, teachers: dict[str, Teacher]
) -> dict[str, Policy]:
    """The student, and every teacher with a model, as policies."""
    models = {STUDENT: student} | {name: t.model for name, t in teachers.items() if t.model is not None}
    return {name: build_policy(model, chat, acting(config, name).rollout) for name, model in models.items()}


def acting(config: Config, actor: str) -> Config:
    """As ``config``, for whoever acts: only the student has another engine than its model in this process, or acts on a cluster."""
    rollout = config.rollout
    if actor != STUDENT:
        rollout = rollout.model_copy(update={"engine": Rollout().engine})
    return config.model_copy(update={"rollout": on_cluster(rollout, config.cluster, actor == STUDENT)})


def build_policy(model: PreTrainedModel, chat: Chat, settings: Rollout) -> Policy:
    """What acts by ``model``."""
    return settings.policy(model, chat.ends_of_turn)


def panel_size(config: Config, tasks: int | None) -> int:
    """How many tasks a panel has: ``tasks``, or those of the configuration.

    Raises:
        ConfigError: ``tasks`` is below 1.
    """
    count = config.evaluation.tasks if tasks is None else tasks
    if count < 1:
        raise ConfigError(f"tasks={count}: a panel has at least 1 task; leave it out for evaluation.tasks")
    return count


def panel_tasks(config: Config, count: int, split: str) -> list[Task]:
    """The first ``count`` tasks of a split, the same for every run with this ``evaluation.seed``.

    Raises:
        ConfigError: A row of an environment's data would be played twice.
    """
    stream = TaskStream(config.envs, config.evaluation.seed, split)
    stream.require_once(count, PANELS.get(split, "tasks"))
    return [stream[i] for i in range(count)]


def build_panel(
    config: Config,
    model: PreTrainedModel | None,
    chat: Chat,
    count: int,
    split: str = "evaluation",
    on_done: Callable[[Trajectory], None] | None = None,
    sampled: bool = False,
    hint: Hint | None = None,
    ranks: Ranks = ALONE,
) -> Panel:
    """Plays ``count`` tasks of the panel with ``model``, or with the environments' expert where there is none.

    Actions are drawn at ``evaluation.temperature``, or, where ``sampled``, as the rollout draws them. With ``hint`` the model is
    shown it in every episode. All of ``ranks`` play a share of the tasks.
    """
    fixed = {"temperature": config.evaluation.temperature, "top_p": 1.0, "top_k": 0}
    settings = config.rollout if sampled else config.rollout.model_copy(update=fixed)
    policy: Policy = ScriptedPolicy() if model is None else build_policy(model, chat, settings)
    actor = EXPERT if model is None else STUDENT
    panel = run_panel(
        panel_tasks(config, count, split),
        policy,
        chat,
        settings,
        actor=actor,
        seed=config.evaluation.seed,
        on_done=on_done,
        hint=hint,
        play=partial(collected, ranks),
    )
    rested(ranks, settings)
    return panel
