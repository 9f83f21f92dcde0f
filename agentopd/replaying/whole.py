"""Records, played again: many episodes side by side."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agentopd import records
from agentopd.errors import ConfigError, EnvError
from agentopd.filters import Filter
from agentopd.isolation.hosts import host
from agentopd.isolation.lane import Host, Isolation, Lane
from agentopd.records import Records
from agentopd.replaying.episode import Again, Found
from agentopd.replaying.reasons import Change, changes, ended, refusal, said_of
from agentopd.replaying.verdicts import Replay, Verdict
from agentopd.types import IMPORTED, Failure, Record, Trajectory

TIME_LIMIT = 30.0
"""Seconds for one call of an environment, as ``rollout.time_limit`` has it."""
CONCURRENCY = 16


def replay(
    source: str | Path | Records | Iterable[Record],
    *,
    steps: range | None = None,
    where: Filter | None = None,
    isolation: Isolation = "thread",
    time_limit: float = TIME_LIMIT,
    concurrency: int = CONCURRENCY,
    on_done: Callable[[Verdict], None] | None = None,
) -> Replay:
    """Plays recorded episodes again, without a model: rebuilds each environment, gives it the recorded actions, compares what comes back.

    Compared are the opening messages, the schemas of the tools, family, privileged facts, and of each turn its observations, reward,
    flags, errors, outcomes of calls, and the expert's advice where it was recorded; at the end reward, success and stop. An episode that
    failed is compared up to where it got; one that a limit of the rollout ended, up to there.

    Args:
        source: A run folder, a records folder, records that are open, or any records.
        steps: Those whose episodes are played; by default all.
        where: Which episodes; by default all, failed ones too.
        isolation: Where environments live.
        time_limit: Seconds for one call of an environment.
        concurrency: Episodes that live at the same time; no more are in memory.
        on_done: Called with each verdict, in the order of the records.

    Returns:
        One verdict an episode. What cannot be played (an environment that is not installed, text that came from elsewhere) is a verdict too.

    Raises:
        RecordError: There are no records, or they cannot be read.
        ConfigError: This system has no such isolation, or ``time_limit`` or ``concurrency`` is not above 0.
    """
    for name, value in (("time_limit", time_limit), ("concurrency", concurrency)):
        if not value > 0:  # nan neither
            raise ConfigError(f"{name}={value}: give a number above 0")
    opened = records.open(source) if isinstance(source, str | Path) else source
    hosts, living = host(isolation, time_limit), deque[_Living]()
    verdicts, changed = list[Verdict](), Counter[Change]()

    def finish(one: _Living) -> None:
        verdict = one.verdict()
        verdicts.append(verdict)
        changed.update(changes(one.recorded))
        if on_done is not None:
            on_done(verdict)

    try:
        for record in _chosen(opened, steps, where):
            if len(living) >= concurrency:
                finish(living[0])  # it is among those that are closed, should something end this
                living.popleft()
            living.append(_Living.begin(record.trajectory, hosts))
        while living:
            finish(living[0])
            living.popleft()
    finally:
        for one in living:
            one.close()
    return Replay(tuple(verdicts), tuple(said_of(change, count) for change, count in changed.items()))


def _chosen(source: Iterable[Record], steps: range | None, where: Filter | None) -> Iterator[Record]:
    for record in source if steps is None or not isinstance(source, Records) else _of(source, steps):
        in_steps = steps is None or record.trajectory.key.step in steps
        if in_steps and (where is None or where.keeps(record)):
            yield record


def _of(source: Records, steps: range) -> Iterator[Record]:
    """The records of some steps; others are not even read."""
    for step in source.steps:
        if step in steps:
            yield from source.step(step)


@dataclass(slots=True, eq=False)
class _Living:
    """An episode that is being played again, or why it is not."""

    recorded: Trajectory
    lane: Lane | None = None
    reason: str = ""

    @classmethod
    def begin(cls, recorded: Trajectory, hosts: Host) -> "_Living":
        if recorded.task.env_id in ("", IMPORTED):
            return cls(recorded, reason="it is text from elsewhere, without an environment: there is nothing to play")
        again = Again(recorded)
        try:
            lane = hosts.lane(again)
        except (ConfigError, EnvError) as error:
            return cls(recorded, reason=str(error))
        lane.submit("replay", calls=again.calls)
        return cls(recorded, lane)

    def verdict(self) -> Verdict:
        """Waits for it."""
        trajectory, found = self.recorded, self._found()
        key, env_id = trajectory.key, trajectory.task.env_id
        if isinstance(found, str):
            return Verdict(key, env_id, "unplayable", note=found)
        if found.refused:
            return Verdict(key, env_id, "unplayable", found.turns, note=refusal(trajectory, found.refused))
        if found.raised:
            note = f"after {found.turns} turns that were the same its environment raised {found.raised}"
            return Verdict(key, env_id, "unplayable", found.turns, note=f"{note}{_upgraded(trajectory)}")
        if found.difference is not None:
            return Verdict(key, env_id, "differs", found.turns, found.difference, _upgraded(trajectory).lstrip("; "))
        return Verdict(key, env_id, "same", found.turns, note=ended(trajectory))

    def _found(self) -> Found | str:
        if self.lane is None:
            return self.reason
        found: Found | Failure = self.lane.result()
        self.close()
        return f"{found.kind}: {found.message}" if isinstance(found, Failure) else found

    def close(self) -> None:
        if self.lane is not None:
            self.lane.close()


def _upgraded(trajectory: Trajectory) -> str:
    return "".join(f"; {change.told}" for change in changes(trajectory))
