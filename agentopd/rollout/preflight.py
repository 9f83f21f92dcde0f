"""Checks before anything expensive."""

from collections.abc import Iterable

from agentopd.chat import Chat
from agentopd.errors import ConfigError, EnvError
from agentopd.rollout.isolation import Isolated
from agentopd.rollout.policy import Rollout
from agentopd.rollout.session import Observed, Session
from agentopd.types import Failure, Task


def check_first_prompts(tasks: Iterable[Task], chat: Chat, settings: Rollout) -> None:
    """Starts each task once and checks that its first prompt leaves room for a turn.

    Raises:
        ConfigError: ``max_length`` is too small.
        EnvError: An environment cannot be made or reset.
    """
    for task in tasks:
        observed = _start(task, settings.time_limit)
        prompt = chat.prompt(observed.conversation, list(observed.tools))
        needed = len(prompt) + settings.max_new_tokens
        if needed > settings.max_length:
            raise ConfigError(
                f"rollout.max_length={settings.max_length} is too small for {task.env_id}: its first prompt has {len(prompt)} "
                f"tokens, and rollout.max_new_tokens={settings.max_new_tokens}; set rollout.max_length to {needed} or more"
            )


def _start(task: Task, time_limit: float) -> Observed:
    session = Session(task, advice=False, needs_expert=False)
    thread: Isolated[Observed] = Isolated(time_limit)
    thread.submit("reset", session.reset)
    observed = thread.result()
    thread.close(session.close)
    if isinstance(observed, Failure):
        raise EnvError(f"{task.env_id} cannot be started with seed {task.seed}: {observed.message}")
    return observed
