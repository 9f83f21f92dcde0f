"""Checks before anything expensive."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentopd.chat import Chat, Hint
from agentopd.errors import ConfigError, EnvError
from agentopd.isolation.hosts import host
from agentopd.isolation.lane import Host
from agentopd.isolation.session import Observed, Session
from agentopd.rollout.policy import Rollout
from agentopd.types import Failure, Task


@dataclass(frozen=True, slots=True)
class Reader:
    """A model that reads episodes: as they are, or behind the hint of a teacher."""

    key: str
    """Whose model it is in the configuration: ``student`` or ``teachers.NAME``."""
    longest: int | None
    """How many tokens it reads at most; ``None`` for no limit."""
    who: str = ""
    """What a message calls it, where it reads a hint."""
    teacher: str = ""
    """The teacher whose hint it reads."""
    hint: Hint | None = None
    chat: Chat | None = None
    """What it reads by, where that is not the student's."""


@dataclass(frozen=True, slots=True)
class _Least:
    """The least ``rollout.max_length`` that a first prompt takes."""

    value: int
    because: str
    hinted: bool


@dataclass(frozen=True, slots=True)
class _Most:
    """The largest ``rollout.max_length`` that a reader takes."""

    value: int
    added: int
    reader: Reader


def check_first_prompts(
    tasks: Sequence[Task],
    chat: Chat,
    settings: Rollout,
    hints: Mapping[str, Hint] | None = None,
    readers: Sequence[Reader] = (),
) -> None:
    """Starts each task of an environment once and checks that its first prompt leaves room for a turn, with each hint too.

    A task that cannot be started is passed over, as one of many is in a run.

    Args:
        tasks: What to start.
        chat: Writes the prompts.
        settings: Their limits.
        hints: What teachers that may act are shown, by the teacher's name.
        readers: What reads the episodes afterwards.

    Raises:
        ConfigError: ``max_length`` is too small, or too large for a reader; or a hint names a fact that the environment does not tell.
        EnvError: None of the tasks can be started.
    """
    lanes = host(settings.isolation, settings.time_limit)
    started = [(task, _start(task, lanes)) for task in tasks]
    failed = [(task, found) for task, found in started if isinstance(found, Failure)]
    if started and len(failed) == len(started):
        task, failure = failed[0]
        raise EnvError(
            f"{task.env_id} cannot be started: {len(failed)} of {len(started)} tasks failed; the first, with seed {task.seed}: "
            f"{failure.message}; agentopd.testing.check_text_env({task.env_id!r}) shows what is wrong with it"
        )
    least: list[_Least] = []
    most: list[_Most] = []
    for task, observed in started:
        if not isinstance(observed, Failure):
            own = _prompt(task, observed, chat)
            least.append(_least(own, "", settings))
            for name, hint in (hints or {}).items():
                least.append(_least(_prompt(task, observed, chat, name, hint), name, settings))
            for reader in readers:
                if reader.chat is not None:
                    _check_other(task, observed, reader, reader.chat)
                    continue
                added = _prompt(task, observed, chat, reader.teacher, reader.hint) - own if reader.hint else 0
                if reader.longest is not None:
                    most.append(_Most(reader.longest - added, added, reader))
    if least:
        _check(tasks[0].env_id, settings, max(least, key=_value), min(most, key=_value, default=None))


def _check_other(task: Task, observed: Observed, reader: Reader, chat: Chat) -> None:
    """Raises ConfigError where a reader with a chat of its own cannot even read the first prompt."""
    length = _prompt(task, observed, chat)
    if reader.longest is not None and length >= reader.longest:
        raise ConfigError(
            f"{reader.key}: in its own tokens the first prompt of {task.env_id} has {length}, and the model reads at most {reader.longest}; "
            "choose a model with more positions"
        )


def _value(bound: _Least | _Most) -> int:
    return bound.value


def _least(prompt: int, teacher: str, settings: Rollout) -> _Least:
    hinted = f" with the hint of teachers.{teacher}" if teacher else ""
    because = f"its first prompt{hinted} has {prompt} tokens, and rollout.max_new_tokens={settings.max_new_tokens}"
    return _Least(prompt + settings.max_new_tokens, because, bool(teacher))


def _check(env_id: str, settings: Rollout, least: _Least, most: _Most | None) -> None:
    """Raises ConfigError where ``max_length`` is not between the two, with a value that is, or what to do where none is."""
    length = settings.max_length
    if least.value <= length and (most is None or length <= most.value):
        return
    if most is not None and most.value < least.value:
        raise ConfigError(_neither(env_id, settings, least, most))
    if length < least.value:
        raise ConfigError(
            f"rollout.max_length={length} is too small for {env_id}: {least.because}; set rollout.max_length to {least.value} or more"
            + (f", and {most.value} or less" if most else "")
        )
    if most is not None and most.reader.hint is not None:
        raise ConfigError(
            f"teachers.{most.reader.teacher}.hint: it adds {most.added} tokens to episodes of up to rollout.max_length={length}, and "
            f"{most.reader.who} reads at most {most.reader.longest}; set rollout.max_length to {most.value} or less, or shorten the hint"
        )
    if most is not None:
        raise too_short(most.reader.key, most.value, length)


def too_short(key: str, longest: int, wanted: int) -> ConfigError:
    """What is said of the model ``key``, which reads fewer tokens than ``rollout.max_length``, ``wanted``."""
    return ConfigError(
        f"{key}: the model reads at most {longest} tokens, and rollout.max_length={wanted}; lower rollout.max_length to {longest} or "
        "less, or choose a model with more positions"
    )


def _neither(env_id: str, settings: Rollout, least: _Least, most: _Most) -> str:
    """What is said where no ``max_length`` is both long enough for the prompt and short enough for a reader."""
    reader, hinted = most.reader, most.reader.hint is not None or least.hinted
    reads = f"{reader.key} reads at most {reader.longest}"
    if reader.hint is not None:
        reads = f"teachers.{reader.teacher}.hint adds {most.added} to what {reader.who} reads, at most {reader.longest}"
    shorter = "shorten the hint" if hinted else "let the environment say less in its first prompt"
    if least.value - settings.max_new_tokens < most.value:
        shorter += ", lower rollout.max_new_tokens"
    return (
        f"rollout.max_length={settings.max_length}, and no other value, serves {env_id}: {least.because}, which takes {least.value} tokens "
        f"or more; and {reads}, which leaves {f'{most.value} or less' if most.value > 0 else 'nothing'}; {shorter}, or give {reader.key} a model with "
        f"{least.value + most.added} positions or more"
    )


def _prompt(task: Task, observed: Observed, chat: Chat, teacher: str = "", hint: Hint | None = None) -> int:
    """How many tokens the first prompt has."""
    messages = observed.conversation
    if hint is not None:
        facts = observed.privileged or {}
        try:
            _require_own(hint, facts)
            messages = hint.shown(messages, {**facts, **dict.fromkeys(hint.hindsight, "")})
        except ConfigError as error:
            raise ConfigError(f"teachers.{teacher}, {task.env_id}: {error}") from error
    return len(chat.prompt(messages, list(observed.tools)))


def _require_own(hint: Hint, facts: Mapping[str, Any]) -> None:
    """Refuses facts of the environment whose names mean something else in hints."""
    taken = sorted(hint.hindsight & facts.keys())
    if taken:
        raise ConfigError(
            f"the environment tells a fact called {taken[0]!r}, which in a hint stands for what is known once an episode is over; let "
            "privileged() call it something else"
        )


def _start(task: Task, lanes: Host) -> Observed | Failure:
    lane = lanes.lane(Session(task, advice=False, needs_expert=False))
    lane.submit("reset")
    found: Observed | Failure = lane.result()
    lane.close()
    return found
