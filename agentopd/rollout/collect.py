"""Plays many episodes at once: policies act for all that live, then all their environments step."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from agentopd.acting import Mixing
from agentopd.chat import Chat, Hint
from agentopd.errors import ConfigError, EnvError
from agentopd.rollout.flows import generations
from agentopd.rollout.joint import joint
from agentopd.rollout.policy import Assignment, Policy, Rollout
from agentopd.rollout.scripted import ScriptedPolicy
from agentopd.rollout.slots import Slot, begun
from agentopd.settings.problems import nearest
from agentopd.types import EXPERT, RECORDED, Failure, Trajectory

ENOUGH_TO_JUDGE = 16
"""Episodes that must have begun before a share of failures says anything."""


def collect(
    assignments: Sequence[Assignment],
    policies: Mapping[str, Policy],
    chat: Chat,
    settings: Rollout,
    advice: bool = False,
    on_done: Callable[[Trajectory], None] | None = None,
    hints: Mapping[str, Hint] | None = None,
) -> list[Trajectory]:
    """Plays every assignment; an episode that ends makes room for the next at once.

    Args:
        assignments: What to play and who acts.
        policies: By actor. ``expert`` needs none.
        chat: Between messages and tokens, for all actors.
        settings: Limits, sampling of lengths, concurrency.
        advice: Whether to record the environment's expert action at every turn, where it has one.
        on_done: Called with each trajectory when it ends.
        hints: By actor: what it is shown of each episode's privileged facts. Trajectories do not hold it.

    Returns:
        One trajectory an assignment, in their order. A failed episode is among them, with the turns it had and its ``failure``.

    Raises:
        ConfigError: An actor has no policy, or one that is no model here where two write each token together.
        PolicyError: A policy failed; that is never one episode's fault.
        EnvError: More than ``settings.max_failures`` of the episodes failed.
    """
    return _Collection(policies, chat, settings, advice, on_done, hints or {}).play(assignments)


class _Collection:
    def __init__(
        self,
        policies: Mapping[str, Policy],
        chat: Chat,
        settings: Rollout,
        advice: bool,
        on_done: Callable[[Trajectory], None] | None,
        hints: Mapping[str, Hint],
    ) -> None:
        self._policies = policies_of(policies)
        self._chat = chat
        self._settings = settings
        self._advice = advice
        self._on_done = on_done
        self._hints = hints
        self._host = settings.host()
        self._living: list[Slot] = []
        self._done: dict[int, Trajectory] = {}

    def play(self, assignments: Sequence[Assignment]) -> list[Trajectory]:
        require_actors(assignments, self._policies)
        waiting = deque(enumerate(assignments))
        try:
            while waiting or self._living:
                while waiting and len(self._living) < self._settings.concurrency:
                    self._living.append(self._begin(*waiting.popleft()))
                for slot in self._living:
                    slot.advance()
                self._retire()
                self._judge(last=not waiting and not self._living)
                self._act()
        finally:
            for slot in self._living:
                self._free(slot)
        return [self._done[number] for number in range(len(assignments))]

    def _begin(self, number: int, assignment: Assignment) -> Slot:
        return begun(number, assignment, self._chat, self._settings, self._host, self._advice, self._hints)

    def _retire(self) -> None:
        """Turns episodes that are over into trajectories."""
        over = [slot for slot in self._living if slot.episode.stop is not None]
        self._living = [slot for slot in self._living if slot.episode.stop is None]
        for slot in over:
            self._free(slot)
            trajectory = self._done[slot.episode.number] = slot.episode.trajectory()
            if self._on_done is not None:
                self._on_done(trajectory)

    def _free(self, slot: Slot) -> None:
        slot.close()
        for actor in slot.episode.assignment.actors:
            self._policies[actor].release([slot.episode.number])

    def _judge(self, last: bool) -> None:
        """Stops when too large a share of the episodes that have begun failed."""
        begun = len(self._done) + len(self._living)
        require_few_failures(self._done.values(), begun, self._settings.max_failures, last)

    def _act(self) -> None:
        """Lets every policy act for its episodes, and starts their environments' steps."""
        together: dict[tuple[str, str | None, Mixing | None], list[Slot]] = {}
        for slot in self._living:
            if not slot.episode.replaying:
                one = slot.episode
                together.setdefault((one.actor, one.guide, one.assignment.acting.mixing), []).append(slot)
        for (actor, guide, mixing), slots in together.items():
            policy = self._policies[actor]
            if guide is not None and mixing is not None:
                policy = joint(actor, policy, guide, self._policies[guide], mixing)
            begin = time.perf_counter()
            written = generations(actor, policy, [slot.episode.request() for slot in slots])
            # the batch is one piece of work: each turn carries its share, so that sums over turns are wall time
            seconds = (time.perf_counter() - begin) / len(slots)
            for slot, generation in zip(slots, written, strict=True):
                action = slot.episode.take(generation, policy.version, seconds)
                slot.lane.submit("step", action)


def require_few_failures(done: Iterable[Trajectory], begun: int, allowed: float, last: bool = False) -> None:
    """Raises EnvError where :func:`too_many_failures` are among the episodes that are ``done``."""
    reasons = Counter(_line(one.failure) for one in done if one.failure is not None)
    if too_many := too_many_failures(reasons.total(), begun, allowed, last):
        reason, count = reasons.most_common(1)[0]
        raise EnvError(f"{too_many}; {count} of them: {reason}")


def too_many_failures(failed: int, begun: int, allowed: float, last: bool = False) -> str | None:
    """What is wrong where too large a share of the episodes that have begun failed; one alone is never too many.

    Args:
        failed: How many failed so far.
        begun: How many have begun.
        allowed: The share that may fail.
        last: Whether all are over; until then a few that have begun say nothing.
    """
    if failed > 1 and failed > allowed * begun and (last or begun >= ENOUGH_TO_JUDGE):
        return f"{failed} of {begun} episodes failed, more than rollout.max_failures={allowed:g} allows"
    return None


def policies_of(policies: Mapping[str, Policy]) -> dict[str, Policy]:
    """``policies``, and those of actors whose turns are known."""
    return {EXPERT: ScriptedPolicy(), RECORDED: ScriptedPolicy(), **policies}


def require_actors(assignments: Sequence[Assignment], policies: Mapping[str, Policy]) -> None:
    """Raises ConfigError where somebody is to act who has no policy."""
    for actor in {actor: None for assignment in assignments for actor in assignment.actors}:
        if actor not in policies:
            raise ConfigError(
                f"no policy acts as {actor!r}{nearest(actor, policies)}; there are: {', '.join(policies)}"
            )


def _line(failure: Failure) -> str:
    return f"{failure.boundary} {failure.kind}: {failure.message}"
