"""Checks before anything expensive."""

from collections.abc import Mapping, Sequence

from agentopd.chat import Chat, Hint
from agentopd.errors import ConfigError, EnvError
from agentopd.rollout.isolation import Isolated
from agentopd.rollout.policy import Rollout
from agentopd.rollout.session import Observed, Session
from agentopd.types import Failure, Task


def check_first_prompts(
    tasks: Sequence[Task],
    chat: Chat,
    settings: Rollout,
    hints: Mapping[str, Hint] | None = None,
    longest: Mapping[str, int] | None = None,
) -> None:
    """Starts each task of an environment once and checks that its first prompt leaves room for a turn, with each hint too.

    A task that cannot be started is passed over, as one of many is in a run.

    Args:
        tasks: What to start.
        chat: Writes the prompts.
        settings: Their limits.
        hints: What teachers are shown, by the teacher's name.
        longest: How many tokens those teachers read, by name, where there is a limit.

    Raises:
        ConfigError: ``max_length`` is too small; or a hint names a fact that the environment does not tell, or leaves its teacher no
            room for an episode of ``max_length``.
        EnvError: None of the tasks can be started.
    """
    started = [(task, _start(task, settings.time_limit)) for task in tasks]
    failed = [(task, found) for task, found in started if isinstance(found, Failure)]
    if started and len(failed) == len(started):
        task, failure = failed[0]
        raise EnvError(
            f"{task.env_id} cannot be started: {len(failed)} of {len(started)} tasks failed; the first, with seed {task.seed}: "
            f"{failure.message}; agentopd.testing.check_text_env({task.env_id!r}) shows what is wrong with it"
        )
    for task, observed in started:
        if not isinstance(observed, Failure):
            own = _check_room(task, observed, chat, settings)
            for name, hint in (hints or {}).items():
                more = _check_room(task, observed, chat, settings, name, hint) - own
                _check_reader(name, more, settings.max_length, (longest or {}).get(name))


def _check_room(
    task: Task, observed: Observed, chat: Chat, settings: Rollout, teacher: str = "", hint: Hint | None = None
) -> int:
    """How many tokens the first prompt has."""
    messages = observed.conversation
    if hint is not None:
        try:
            messages = hint.shown(messages, observed.privileged or {})
        except ConfigError as error:
            raise ConfigError(f"teachers.{teacher}, {task.env_id}: {error}") from error
    prompt = chat.prompt(messages, list(observed.tools))
    needed = len(prompt) + settings.max_new_tokens
    if needed > settings.max_length:
        hinted = f" with the hint of teachers.{teacher}" if hint else ""
        raise ConfigError(
            f"rollout.max_length={settings.max_length} is too small for {task.env_id}: its first prompt{hinted} has {len(prompt)} "
            f"tokens, and rollout.max_new_tokens={settings.max_new_tokens}; set rollout.max_length to {needed} or more"
        )
    return len(prompt)


def _check_reader(teacher: str, more: int, max_length: int, longest: int | None) -> None:
    if longest is not None and max_length + more > longest:
        raise ConfigError(
            f"teachers.{teacher}.hint: it adds {more} tokens to episodes of up to rollout.max_length={max_length}, and the teacher "
            f"reads at most {longest}; set rollout.max_length to {longest - more} or less, or shorten the hint"
        )


def _start(task: Task, time_limit: float) -> Observed | Failure:
    session = Session(task, advice=False, needs_expert=False)
    thread: Isolated[Observed] = Isolated(time_limit)
    thread.submit("reset", session.reset)
    found = thread.result()
    thread.close(session.close)
    return found
