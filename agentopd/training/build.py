"""The pieces of a run, made from its configuration."""

import itertools
from collections.abc import Callable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd.chat import Chat
from agentopd.config import Config
from agentopd.evaluation import Panel, run_panel
from agentopd.models import ModelConfig
from agentopd.rollout import EnvConfig, TaskStream, TransformersPolicy
from agentopd.rollout.policy import EXPERT, Policy
from agentopd.rollout.scripted import ScriptedPolicy
from agentopd.teachers import Teacher, build_teachers
from agentopd.training.folder import RunFolder
from agentopd.training.river import STUDENT, River
from agentopd.types import Task, Trajectory

Load = Callable[[ModelConfig], PreTrainedModel]


def with_env(config: Config, env: str | None) -> Config:
    """``config`` with one environment in place of its own."""
    return config if env is None else config.model_copy(update={"envs": (EnvConfig(id=env),)})


def build_river(
    config: Config,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    load: Load,
    device: torch.device,
    folder: RunFolder | None,
) -> River:
    """The river of ``config`` around ``student``; ``load`` gives local teachers their weights."""
    chat = Chat(tokenizer, config.template_kwargs)
    teachers = build_teachers(config.teachers, chat, lambda wanted: load(wanted).to(device), temperature_of(config))
    return River(
        config=config,
        run=folder.path.name if folder else "run",
        chat=chat,
        policies=build_policies(config, student, chat, teachers),
        teachers=teachers,
        folder=folder.path if folder else None,
    )


def build_policies(config: Config, student: PreTrainedModel, chat: Chat, teachers: dict[str, Teacher]) -> dict[str, Policy]:
    """The student, and every teacher with a model, as policies."""
    models = {STUDENT: student} | {name: t.model for name, t in teachers.items() if t.model is not None}
    return {name: TransformersPolicy(model, chat.end_of_turn, config.rollout) for name, model in models.items()}


def temperature_of(config: Config) -> float:
    """The temperature at which student and teacher are compared: that of the rollout, or 1 where it is greedy."""
    return config.rollout.temperature or 1.0


def panel_tasks(config: Config, count: int) -> list[Task]:
    """The first ``count`` held-out tasks of the fixed panel."""
    stream = TaskStream(config.envs, config.evaluation.seed, "evaluation")
    return list(itertools.islice((stream[i] for i in itertools.count()), count))


def build_panel(
    config: Config,
    model: PreTrainedModel | None,
    chat: Chat,
    count: int,
    on_done: Callable[[Trajectory], None] | None = None,
) -> Panel:
    """Plays ``count`` tasks of the panel with ``model``, or with the environments' expert where there is none."""
    settings = config.rollout.model_copy(update={"temperature": config.evaluation.temperature, "top_p": 1.0, "top_k": 0})
    policy: Policy = ScriptedPolicy() if model is None else TransformersPolicy(model, chat.end_of_turn, settings)
    actor = EXPERT if model is None else STUDENT
    return run_panel(panel_tasks(config, count), policy, chat, settings, actor=actor, seed=config.evaluation.seed, on_done=on_done)
