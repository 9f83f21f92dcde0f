"""Play an environment in the terminal, or watch its expert or a model play it.

examples:
  agentopd play agentopd/Checkout-v0
  agentopd play agentopd/Checkout-v0 items=3 failure_rate=0 --expert
  agentopd play hidden:me/Hidden-v0 --seed 7
  agentopd play agentopd/Checkout-v0 --model runs/quickstart-1 --episodes 3

An empty line shows what may be typed, such as: price pears. The word quit ends it.
"""

import argparse
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopd.errors import ConfigError
from agentopd.run_files import CONFIG, STUDENT

if TYPE_CHECKING:
    import gymnasium

    from agentopd.config import Config
    from agentopd.env.playing import Act
    from agentopd.tooling import ToolSet
    from agentopd.types import Message


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("env", help="its id; module:id imports the module first")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="what the environment is made with")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=1, help="how many, by consecutive seeds (default: %(default)s)")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--expert", action="store_true", help="watch the environment's expert")
    who.add_argument("--model", help="watch a model: a hub id, a folder, or a run's folder")


def run(arguments: argparse.Namespace) -> int:
    """Plays; returns 1 where an episode was left or did not succeed."""
    from agentopd import env as environments
    from agentopd.cli.table import read_in_part
    from agentopd.env.playing import person, play

    for name, least in (("seed", 0), ("episodes", 1)):
        if getattr(arguments, name) < least:
            raise ConfigError(f"--{name} {getattr(arguments, name)}: it must be at least {least}")
    env = environments.make(arguments.env, **_made_with(arguments.overrides))
    successes: list[bool] = []
    try:
        if arguments.expert and not environments.has_expert(env):
            raise ConfigError(f"--expert: {arguments.env} has none; leave it out to play yourself, or watch a --model")
        tools = environments.tools_of(env)
        act = (
            _expert(env)
            if arguments.expert
            else _model(arguments.model, tools)
            if arguments.model
            else person(tools, input, print)
        )
        with read_in_part():
            for n in range(arguments.episodes):
                successes.append(play(env, arguments.seed + n, act, print))
    except EOFError:
        print("left before the end")
        return 1
    finally:
        env.close()
    return 0 if all(successes) and len(successes) == arguments.episodes else 1


def _made_with(texts: "Sequence[str]") -> "dict[str, Any]":
    from agentopd.config.shipped import parse

    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"{text!r} says nothing of the environment; write name=value, such as items=3")
        found[name] = parse(value, name)
    return found


def _expert(env: "gymnasium.Env[str, str]") -> "Act":
    from agentopd.env import expert_action
    from agentopd.env.playing import blamed

    def act(_: "Sequence[Message]") -> str:
        with blamed(env):
            return expert_action(env)

    return act


def _model(name: str, tools: "ToolSet") -> "Act":
    """A model, which samples as a run would: as its own run, where it was trained in one."""
    from agentopd.chat import Chat
    from agentopd.models import ModelConfig, load_model, load_tokenizer
    from agentopd.rollout import Request, Rollout, TransformersPolicy

    config, name = _run_of(name)
    tokenizer = load_tokenizer(name)
    chat, settings = (config.chat(tokenizer), config.rollout) if config else (Chat(tokenizer), Rollout())
    schemas, thinks, seeds = tools.schemas, settings.thinking_budget, count()
    policy = TransformersPolicy(load_model(ModelConfig(model=name)), chat.ends_of_turn, settings)

    def act(messages: "Sequence[Message]") -> str:
        prompt = chat.prompt(messages, schemas)
        budget = None if thinks is None else chat.budget(prompt, thinks)
        request = Request(0, prompt, next(seeds), settings.max_new_tokens, budget=budget)
        return chat.read(policy.act([request])[0].tokens, schemas, prompt).canonical

    return act


def _run_of(name: str) -> "tuple[Config | None, str]":
    """The configuration of the run that ``name`` or the folder around it is, and its student; else none, and ``name``."""
    from agentopd.cli import source

    place = Path(name)
    run = place.parent if place.name == STUDENT else place
    if not (run / CONFIG).exists():
        return None, name
    config, student = source.load(str(run), [])
    return config, str(student)
