"""An episode in a terminal: a person, the expert or a model acts, and what a model would read is printed."""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import gymnasium

from agentopd.env.text import system_prompt
from agentopd.errors import AgentOPDError, ConfigError, EnvError, described_with_place
from agentopd.tooling import ToolSet, call
from agentopd.tooling.action import CLOSE, OPEN
from agentopd.types import Message

Act: TypeAlias = Callable[[Sequence[Message]], str]
"""From the conversation so far to the next action, as canonical text."""
Say: TypeAlias = Callable[[str], None]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def play(env: gymnasium.Env[str, str], seed: int | None, act: Act, say: Say) -> bool:
    """Plays one episode and tells it line by line.

    Control characters are written out (``\\x1b``), but newlines and tabs: they could clear a terminal, or write to its clipboard.

    Args:
        env: What :func:`agentopd.make` gives.
        seed: Of the episode.
        act: Who acts.
        say: Takes each line.

    Returns:
        Whether it succeeded.

    Raises:
        EnvError: The environment raised.
    """
    with blamed(env):
        _, info = env.reset(seed=seed)
    instructions = system_prompt(env)
    said: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    said += info["messages"]
    for message in said:
        say(_shown(f"{message['role']}: {message['content']}"))
    total, over = 0.0, False
    while not over:
        action = act(said)
        say(_shown(f"> {action}"))
        with blamed(env):
            _, reward, terminated, truncated, info = env.step(action)
        for message in info["messages"]:
            say(_shown(f"{message['role']}: {message['content']}"))
        said += [{"role": "assistant", "content": action}, *info["messages"]]
        total, over = total + float(reward), terminated or truncated
    success = bool(info.get("success", False))
    say(f"{'success' if success else 'no success'}, reward {total:g}{'' if terminated else ', cut off by its limit'}")
    return success


@contextmanager
def blamed(env: gymnasium.Env[str, str]) -> Iterator[None]:
    """What an environment raises is told as a run tells it, in one line.

    Raises:
        EnvError: It raised.
    """
    try:
        yield
    except AgentOPDError:
        raise
    except Exception as error:
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        raise EnvError(f"{name} raised: {described_with_place(error)}") from error


def _shown(text: str) -> str:
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def usage(tools: ToolSet) -> Iterator[str]:
    """What a person may type, line by line."""
    for one in tools:
        names = " ".join(_properties(one.schema))
        yield f"{one.name} {names}".rstrip() + f"    {one.description.partition(chr(10))[0]}"


def typed(line: str, tools: ToolSet) -> str:
    """The action that a person means by a line: a tool's name and its arguments, by name (``a=1``) or in order; else text.

    A tool's only argument is all that follows its name. A value is text where the tool takes text, else JSON.

    Raises:
        ConfigError: There are more arguments than the tool has, or a quotation does not close.
    """
    name, _, rest = line.strip().partition(" ")
    if OPEN in line or CLOSE in line or name not in tools.names:
        return line
    properties = _properties(next(one.schema for one in tools if one.name == name))
    return call(name, **{key: _value(text, properties[key]) for key, text in _arguments(name, rest, list(properties))})


def _properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    return dict(schema["function"]["parameters"].get("properties", {}))


def _arguments(name: str, rest: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    if len(names) == 1 and rest and not rest.startswith(f"{names[0]}="):
        yield names[0], rest
        return
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise ConfigError(
            f'{name} {rest}: {error}; close it, or write \\" for a quotation mark that is text'
        ) from error
    free = [key for key in names if not any(word.startswith(f"{key}=") for word in words)]
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in names:
            yield key, value
        elif free:
            yield free.pop(0), word
        else:
            raise ConfigError(
                f"{name} {rest}: {word!r} is one argument too many; it takes: {', '.join(names) or 'none'}"
            )


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def person(tools: ToolSet, ask: Callable[[str], str], say: Say) -> Act:
    """A person who is asked for lines until one is an action; an empty one shows what may be typed.

    Raises:
        EOFError: Of the action, where there are no more lines, or one says ``quit``.
    """

    def act(_: Sequence[Message]) -> str:
        while True:
            line = ask("> ")
            if line.strip() == "quit":
                raise EOFError
            if not line.strip():
                for told in usage(tools):
                    say(told)
                continue
            try:
                return typed(line, tools)
            except ConfigError as error:
                say(str(error))

    return act
