"""What is known of an episode once it is over, as text for a hint: feedback, a sibling that succeeded, a demonstration."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from agentopd import records
from agentopd.chat import Hint
from agentopd.chat.hint import DEMONSTRATION, FEEDBACK, NEXT, SIBLING
from agentopd.errors import ConfigError, RecordError
from agentopd.types import Trajectory, Turn


@dataclass(frozen=True)
class Hindsight:
    """Adds to episodes what a hint names of them. What cannot be told of one is left out: it is for whoever reads it to skip it."""

    hint: Hint

    @property
    def needs_group(self) -> bool:
        """Whether it takes the other episodes of a task."""
        return SIBLING in self.hint.names

    @property
    def shows_others(self) -> bool:
        """Whether it shows other episodes than the one that is read."""
        return bool(self.hint.names & {SIBLING, DEMONSTRATION})

    @cached_property
    def _shown(self) -> Mapping[str, Sequence[Trajectory]]:
        """The recorded episodes that succeeded, by task."""
        folder = self.hint.demonstrations
        if folder is None:
            return {}
        try:
            found = _by_task(record.trajectory for record in records.open(folder))
        except (RecordError, OSError) as error:
            raise ConfigError(f"hint.demonstrations={folder}: {error}") from error
        if not found:
            raise ConfigError(
                f"hint.demonstrations={folder}: no episode there succeeded; give records of an expert or of a better student"
            )
        return found

    def require_shown(self) -> None:
        """Raises ConfigError where there are no recorded episodes to show, and the hint names them."""
        _ = self._shown

    def told(self, trajectory: Trajectory) -> bool:
        """Whether all is known that the hint names of a whole episode."""
        return self.hint.hindsight - {NEXT} <= trajectory.privileged.keys()

    def tell(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """Copies of ``trajectories`` whose privileged facts hold what the hint names and what is known of each.

        A sibling is the first other episode of the same task that succeeded; a demonstration is one of those recorded, another for
        each task.
        """
        names, siblings = self.hint.hindsight, _by_task(trajectories)
        return [replace(one, privileged={**one.privileged, **self._of(one, names, siblings)}) for one in trajectories]

    def _of(
        self, trajectory: Trajectory, names: Iterable[str], siblings: Mapping[str, Sequence[Trajectory]]
    ) -> dict[str, str]:
        told: dict[str, str] = {}
        if FEEDBACK in names:
            told[FEEDBACK] = feedback(trajectory)
        for name, known in ((SIBLING, siblings), (DEMONSTRATION, self._shown)):
            others = [one for one in known.get(trajectory.task.id, ()) if not _same_episode(one, trajectory)]
            if name in names and others:
                told[name] = transcript(others[0 if name == SIBLING else _spread(trajectory, len(others))])
        return told


def _same_episode(one: Trajectory, other: Trajectory) -> bool:
    return (one.origin or one.key) == (other.origin or other.key)


def _spread(trajectory: Trajectory, count: int) -> int:
    """A number below ``count``, the same for the same task."""
    return int(hashlib.sha256(trajectory.task.id.encode()).hexdigest(), 16) % count


def _by_task(trajectories: Iterable[Trajectory]) -> dict[str, list[Trajectory]]:
    found: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        if trajectory.outcome.success and trajectory.failure is None:
            found[trajectory.task.id].append(trajectory)
    return dict(found)


def transcript(trajectory: Trajectory) -> str:
    """The actions of an episode and what came back, one below the other."""
    return "\n".join(part for turn in trajectory.turns for part in (turn.action, observed(turn)) if part)


def observed(turn: Turn) -> str:
    """What came back for an action, one message below the other."""
    return "\n".join(message["content"] for message in turn.observations if message["content"])


def feedback(trajectory: Trajectory) -> str:
    """What the environment said of bad actions, what it said last, and whether the episode succeeded."""
    bad = [f"Turn {turn.index + 1}: {observed(turn)}" for turn in trajectory.turns if turn.errors and observed(turn)]
    last = trajectory.turns[-1:]
    end = [observed(turn) for turn in last if observed(turn) and not turn.errors]
    return "\n".join([*bad, *end, "The attempt succeeded." if trajectory.outcome.success else "The attempt failed."])
