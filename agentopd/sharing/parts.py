"""Parts of episodes as training data for others: turns that went well, and pairs of a better and a worse way to go on."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from agentopd.sharing.facts import of_turn
from agentopd.sharing.formats import Row, completion_row, preference_row
from agentopd.sharing.talk import Talk, spoken, talk_of
from agentopd.types import STUDENT, Key, Message, Record, Trajectory

Pairs: TypeAlias = Literal["episodes", "corrections", "both"]
"""Which pairs are meant: of a success and a failure at one task, or of a turn and a teacher's correction of it."""
Facts: TypeAlias = Callable[[Trajectory], Mapping[str, Any] | None]
"""What is added to a row of an episode."""


def turn_rows(record: Record, facts: Facts) -> Iterator[Row]:
    """A row for each turn of an episode that succeeded, but for turns with bad actions and those that nobody learns from."""
    trajectory = record.trajectory
    if not trajectory.outcome.success:
        return
    talk = talk_of(trajectory, facts(trajectory))
    for number, (turn, at) in enumerate(zip(trajectory.turns, _acted(trajectory, talk), strict=True)):
        if not turn.errors and at not in talk.untrained:
            yield completion_row(replace(talk, facts=of_turn(talk.facts, number)), at)


def correction_rows(record: Record, facts: Facts, teacher: str | None = None) -> Iterator[Row]:
    """A row for each turn of the student that a teacher corrected into something else, the correction chosen.

    Both are without thinking: a correction has none, and a pair must not teach that.

    Args:
        record: The episode, annotated.
        facts: What is added to its rows.
        teacher: The only one whose corrections are meant.
    """
    trajectory = record.trajectory
    said = [one for one in record.annotations if one.corrected_S and teacher in (None, one.teacher)]
    if not said:
        return
    talk = talk_of(trajectory, facts(trajectory))
    for annotation in said:
        for turn, at, better, skipped in zip(
            trajectory.turns,
            _acted(trajectory, talk),
            annotation.corrected_S,
            annotation.skip_S.tolist(),
            strict=True,
        ):
            if better is None or skipped or turn.actor != STUDENT or at in talk.untrained:
                continue
            chosen, rejected = _unthought(spoken(better)), _unthought(talk.messages[at])
            if chosen != rejected:
                yield preference_row(talk, at, [chosen], [rejected])


@dataclass
class Tasks:
    """Which episodes succeeded and which failed, by task; what is kept of each is its key."""

    succeeded: dict[str, list[Key]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[str, list[Key]] = field(default_factory=lambda: defaultdict(list))

    def add(self, trajectory: Trajectory) -> None:
        """Takes one episode; one that an infrastructure failure ended is neither."""
        # imported ones tell the stop alone
        if trajectory.failure is not None or trajectory.outcome.stop == "failed":
            return
        (self.succeeded if trajectory.outcome.success else self.failed)[trajectory.task.id].append(trajectory.key)

    def pairs(self) -> Iterator[tuple[Key, Key]]:
        """A success and a failure at the same task, each episode at most once."""
        for task, won in self.succeeded.items():
            yield from zip(won, self.failed.get(task, ()), strict=False)


def episode_row(won: Trajectory, lost: Trajectory, facts: Facts) -> Row | None:
    """Two episodes of one task from the turn on in which they part; ``None`` where something else parts them.

    The prompt is what they share. Both continuations end with a turn; observations are among them.
    """
    better, worse = talk_of(won, facts(won)), talk_of(lost)
    shared = next(
        (at for at, (one, other) in enumerate(zip(better.messages, worse.messages, strict=False)) if one != other), None
    )
    if shared is None or better.tools != worse.tools or not better.turns or not worse.turns:
        return None
    chosen, rejected = (list(talk.messages[shared : talk.turns[-1] + 1]) for talk in (better, worse))
    if not chosen or not rejected or {chosen[0]["role"], rejected[0]["role"]} != {"assistant"}:
        return None
    return preference_row(better, shared, chosen, rejected)


def _acted(trajectory: Trajectory, talk: Talk) -> list[int]:
    """Where the turns of an episode stand in its conversation."""
    return [at for at in talk.turns if at >= len(trajectory.opening)]


def _unthought(message: Message) -> Message:
    """The message without its thinking."""
    bare: Message = {**message}
    bare.pop("reasoning_content", None)
    return bare


def paired(keys: Iterable[tuple[Key, Key]], find: Callable[[Key], Record], facts: Facts) -> Iterator[Row | None]:
    """The row of each pair; ``None`` for those that no turn parts."""
    for won, lost in keys:
        yield episode_row(find(won).trajectory, find(lost).trajectory, facts)
