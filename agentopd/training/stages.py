"""The stages before training, each cached by the content of what decides it: a tokenizer, a fitted teacher, a cold start."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd import env as environments
from agentopd.config import Config, Fit, Stages, Train, load_recipe
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig, NewModel, load_model, load_tokenizer, new_model
from agentopd.objective.spec import Objective
from agentopd.rollout import TaskStream
from agentopd.tokenizer import build_tokenizer
from agentopd.training.arguments import arguments
from agentopd.training.callbacks import Progress
from agentopd.training.display import watch
from agentopd.training.trainer import AgentOPDTrainer

Say = Callable[[str], None]
CORPUS_EPISODES = 200


def cached(config: Config, name: str, content: Any, make: Callable[[Path], None], say: Say) -> Path:
    """The folder of a stage's result, made if no run with the same ``content`` has made it before."""
    versions = {package: version(package) for package in ("agentopd", "torch", "transformers")}
    digest = hashlib.sha256(json.dumps([content, versions], sort_keys=True, default=str).encode()).hexdigest()[:16]
    folder = Path(config.stages.cache).expanduser() / f"{name}-{digest}"
    if folder.exists():
        say(f"{name}: taken from {folder}")
        return folder
    with _aside(folder.parent) as aside:
        make(aside)
        if not folder.exists():  # another run may have been quicker
            aside.replace(folder)
    return folder


@contextmanager
def _aside(cache: Path) -> Iterator[Path]:
    """A folder of this process alone, so that two runs may make the same stage at once; it is gone afterwards."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix="making-", dir=cache))
    except OSError as error:
        raise ConfigError(f"stages.cache: {cache} cannot be written: {error.strerror}") from None
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def tokenizer_of(config: Config, say: Say) -> PreTrainedTokenizerBase:
    """The student's tokenizer: its own, or for new weights one built from the environments' texts."""
    if config.student.new is None:
        return load_tokenizer(str(config.student.model))
    size = config.student.new.vocab_size
    content = [_envs(config), size, config.seed]

    def make(folder: Path) -> None:
        say("tokenizer: reading the environments' texts")
        build_tokenizer(corpus(config), size).save_pretrained(folder)

    return load_tokenizer(str(cached(config, "tokenizer", content, make, say)))


def corpus(config: Config) -> list[str]:
    """What is said in some episodes that the environments' experts play; first observations alone without an expert."""
    stream = TaskStream(config.envs, config.seed, "train")
    return [text for i in range(CORPUS_EPISODES) for text in _texts(stream[i].env_id, stream[i].kwargs, stream[i].seed)]


def _texts(env_id: str, kwargs: Any, seed: int) -> list[str]:
    env = environments.make(env_id, **kwargs)
    observation, _ = env.reset(seed=seed)
    tools = [json.dumps(schema) for schema in environments.tools_of(env).schemas]
    texts, over = [environments.system_prompt(env), *tools, str(observation)], not environments.has_expert(env)
    while not over:
        action = environments.expert_action(env)
        observation, _, terminated, truncated, _ = env.step(action)
        texts += [action, str(observation)]
        over = terminated or truncated
    env.close()
    return texts


def student_of(config: Config, tokenizer: PreTrainedTokenizerBase, say: Say) -> PreTrainedModel:
    """The student at the start of training: loaded or new, after its cold start where there is one."""
    fit_settings = config.stages.cold_start
    if fit_settings is None:
        return fresh(config.student, tokenizer, config.seed)
    content = [_envs(config), config.student.model_dump(), fit_settings.model_dump(), config.seed]

    def make(folder: Path) -> None:
        model = fresh(config.student, tokenizer, config.seed)
        fit(config, fit_settings, model, tokenizer, say, "cold start")
        model.save_pretrained(folder)

    return load_model(ModelConfig(model=str(cached(config, "cold-start", content, make, say))))


def teacher_of(config: Config, tokenizer: PreTrainedTokenizerBase, new: NewModel, say: Say) -> PreTrainedModel:
    """A local teacher with new weights, fitted on the expert's traces."""
    fit_settings = config.stages.teacher
    seed = config.seed + 1  # so that it does not start as the student does
    if fit_settings is None:
        return new_model(new, tokenizer, seed)
    content = [_envs(config), new.model_dump(), fit_settings.model_dump(), seed]

    def make(folder: Path) -> None:
        model = new_model(new, tokenizer, seed)
        fit(config, fit_settings, model, tokenizer, say, "teacher")
        model.save_pretrained(folder)

    return load_model(ModelConfig(model=str(cached(config, "teacher", content, make, say))))


def fresh(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """The model that ``config`` names, before any stage."""
    return load_model(config) if config.new is None else new_model(config.new, tokenizer, seed)


def fit(
    config: Config, stage: Fit, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, say: Say, what: str
) -> None:
    """Supervised fine-tuning of ``model`` in place, on the expert's traces: the recipe ``sft`` in the ordinary trainer."""
    recipe = load_recipe("sft")
    objective = Objective.model_validate({**recipe, "sampler": {**recipe["sampler"], "episodes": stage.episodes}})
    train = Train(
        steps=stage.steps,
        tasks_per_step=min(stage.episodes_per_step, stage.episodes),
        learning_rate=stage.learning_rate,
        schedule="cosine",
        warmup_steps=max(1, stage.steps // 20),
        max_tokens=config.train.max_tokens,
        layout=config.train.layout,
        eval_every=0,
        save_every=0,
    )
    staged = config.model_copy(update={"objective": objective, "train": train, "teachers": {}, "stages": Stages()})
    say(f"{what}: {stage.steps} steps of supervised fine-tuning on {stage.episodes} traces of the expert")
    args = arguments(staged, Path("unused"))
    AgentOPDTrainer(model, args, tokenizer, watch=watch, callbacks=[Progress(what)]).train()


def _envs(config: Config) -> list[Any]:
    return [env.model_dump(mode="json") for env in config.envs]
