"""What the environments' experts play before training: texts for a new tokenizer, and traces for a stage to learn from.

Both come from a split of their own, so that no training task has been seen in a stage.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence

from agentopd.chat import Chat
from agentopd.config import Config
from agentopd.errors import ConfigError, EnvError
from agentopd.isolation.hosts import host
from agentopd.isolation.lane import Host
from agentopd.isolation.session import Observed, Session
from agentopd.rollout import TaskStream, assign
from agentopd.rollout.collect import too_many_failures
from agentopd.rollout.episode import TOO_LONG
from agentopd.training.loop.build import acting
from agentopd.training.loop.ranks import joined
from agentopd.training.loop.together import collected
from agentopd.training.show.display import Meter, watch
from agentopd.types import EXPERT, Failure, Task, Trajectory

Say = Callable[[str], None]
SPLIT = "stages"
CORPUS_EPISODES = 200
CORPUS_CHARACTERS = 20_000
"""Of each text that a tokenizer learns from. Words repeat, so more teaches it little; megabytes in every episode would look like a hang."""
GOOD_EXPERT = 0.9
"""An expert that succeeds less often deserves a word."""


def corpus(config: Config, say: Say) -> list[str]:
    """What is said in some episodes that the environments' experts play; first observations alone without an expert.

    Raises:
        EnvError: More than ``rollout.max_failures`` of the episodes failed.
    """
    stream = TaskStream(config.envs, config.seed, SPLIT)
    begun: list[_Spoken] = []
    living: list[_Spoken] = []
    lanes = host(config.rollout.isolation, config.rollout.time_limit)
    meter = Meter("tokenizer: episodes", CORPUS_EPISODES)
    try:
        while living or len(begun) < CORPUS_EPISODES:
            while len(begun) < CORPUS_EPISODES and len(living) < config.rollout.concurrency:
                begun.append(_Spoken(stream[len(begun)], config.rollout.max_turns, lanes))
                living.append(begun[-1])
            living = [episode for episode in living if episode.advance()]
            meter.show(len(begun) - len(living))
            _judge_failures(begun, config.rollout.max_failures)
    finally:
        meter.close(silent=True)
        for episode in living:
            episode.close()
    failed = [episode for episode in begun if episode.failure]
    if failed:
        say(f"tokenizer: {len(failed)} of {len(begun)} episodes failed; the first: {failed[0].failure}")
    return [text for episode in begun for text in episode.texts]


class _Spoken:
    """A living episode as text alone: :func:`agentopd.rollout.collect` needs a tokenizer, and there is none yet."""

    def __init__(self, task: Task, max_turns: int, lanes: Host) -> None:
        self.texts: list[str] = []
        self.failure = ""
        """Where and how it failed."""
        self._task, self._max_turns, self._turns = task, max_turns, 0
        self._lane = lanes.lane(Session(task, advice=True, needs_expert=False))
        self._lane.submit("reset")

    def advance(self) -> bool:
        """Waits for the environment, and takes the expert's next action; false once the episode is over."""
        observed: Observed | Failure = self._lane.result()
        if isinstance(observed, Failure):
            self.failure = f"{self._task.env_id} with seed {self._task.seed}, turn {self._turns}: {observed.message}"
        else:
            said = [observed.system, *map(json.dumps, observed.tools), *(m["content"] for m in observed.messages)]
            self._keep(*said)
        if isinstance(observed, Failure) or observed.advice is None or self._turns == self._max_turns:
            self.close()
            return False
        self._turns += 1
        self._keep(observed.advice)
        self._lane.submit("step", observed.advice)
        return True

    def _keep(self, *texts: str) -> None:
        self.texts += [text[:CORPUS_CHARACTERS] for text in texts if text]

    def close(self) -> None:
        """Lets the environment go, without waiting for it."""
        self._lane.close()


def _judge_failures(begun: Sequence[_Spoken], allowed: float) -> None:
    failed = [episode for episode in begun if episode.failure]
    if too_many := too_many_failures(len(failed), len(begun), allowed):
        raise EnvError(
            f"tokenizer: {too_many}; the first: {failed[0].failure}; agentopd.testing.check_text_env shows what is wrong with an "
            "environment"
        )


def traces(config: Config, episodes: int, chat: Chat, what: str, say: Say) -> list[Trajectory]:
    """Episodes that the environments' experts play, those that failed left out.

    Args:
        config: Of the run: environments, seed, limits.
        episodes: How many are played.
        chat: Writes actions as tokens.
        what: The stage, for messages.
        say: Told of an expert that often does not succeed. What it does then is learned from as well.

    Raises:
        ConfigError: An environment's expert never succeeds, or writes an action that is longer than a turn may be.
        EnvError: More than ``rollout.max_failures`` of the episodes failed, or all of them.
    """
    stream = TaskStream(config.envs, config.seed, SPLIT)
    assignments = assign(stream, range(episodes), "fresh", {EXPERT: 1.0}, 1, SPLIT, 0, config.seed)
    with watch(f"{what}: episodes", episodes) as show:

        def on_done(trajectory: Trajectory) -> None:
            _require_room(trajectory)
            show(trajectory)

        played = collected(joined(), assignments, {}, chat, acting(config, EXPERT).rollout, on_done=on_done)
    intact = [trajectory for trajectory in played if trajectory.failure is None]
    if not intact:
        first = next(f"{t.task.env_id} with seed {t.task.seed}: {t.failure.message}" for t in played if t.failure)
        raise EnvError(f"{what}: all {episodes} episodes failed; the first: {first}")
    for env_id in sorted({trajectory.task.env_id for trajectory in intact}):
        _judge_expert(env_id, [t for t in intact if t.task.env_id == env_id], what, say)
    return intact


def _require_room(played: Trajectory) -> None:
    """Before training, a turn that is too short for the expert is a wrong setting, however rare its long actions are."""
    if played.failure is not None and played.failure.kind == TOO_LONG:
        raise ConfigError(played.failure.message)


def _judge_expert(env_id: str, played: Sequence[Trajectory], what: str, say: Say) -> None:
    rate = sum(trajectory.outcome.success for trajectory in played) / len(played)
    if rate >= GOOD_EXPERT:
        return
    ends = Counter(trajectory.outcome.stop for trajectory in played if not trajectory.outcome.success)
    found = (
        f"{what}: the expert of {env_id} succeeds in {rate:.0%} of its own {len(played)} episodes (the others end by "
        f"{', '.join(f'{stop}: {count}' for stop, count in ends.most_common())})"
    )
    if rate == 0:
        raise ConfigError(
            f"{found}, so there is nothing to learn from it; raise rollout.max_turns where they end by turn_limit, "
            f"rollout.max_length where by overflow; else agentopd.testing.check_text_env({env_id!r}) finds what is wrong"
        )
    say(f"{found}; what it does there is learned from as well")
