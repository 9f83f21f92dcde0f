"""Conversations of other programs as records: tokenised once, by the chat of the model that is to read them, and marked as such.

Nobody sampled their tokens, so these have no behaviour log-probability: it is ``nan``, and what needs one refuses them.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import agentopd.sharing.facts as facts
import agentopd.sharing.files as files
from agentopd import records as store
from agentopd.chat import Chat
from agentopd.errors import ConfigError, RecordError
from agentopd.records.files import folder_of
from agentopd.rollout.episode import package_versions
from agentopd.rollout.segments import SegmentBuilder
from agentopd.sharing.reading import READERS
from agentopd.sharing.repeats import Repeats
from agentopd.sharing.talk import Talk, written
from agentopd.tooling.action import parse_action
from agentopd.types import IMPORTED, Key, Message, Record, Segment, Trajectory, Turn

A_STEP = 256
"""Episodes that are written as one step."""
TOLD = 5
"""Bad rows of which the reason is told."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How conversations become records."""

    chat: Chat
    """Of the model that is to read the tokens."""
    format: str = "auto"
    env: str | None = None
    """The id of an environment that all of them are of."""
    success: bool = False
    """Whether an episode whose row does not tell it succeeded."""
    skip_bad: bool = False
    """Whether to leave out what cannot be read, and count it, instead of stopping."""

    def __post_init__(self) -> None:
        if self.format not in READERS:
            raise RecordError(f"format={self.format!r}: there are {', '.join(READERS)}")


@dataclass(slots=True)
class Taken:
    """What came of an import."""

    episodes: int = 0
    turns: int = 0
    tokens: int = 0
    """Of all segments."""
    longest: int = 0
    """Tokens of the longest segment."""
    drifts: dict[str, int] = field(default_factory=dict)
    """How turns were joined: see :mod:`agentopd.chat`."""
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)
    """Why, for the first few."""

    def add(self, trajectory: Trajectory) -> None:
        """Counts one episode."""
        sizes = [len(segment) for segment in trajectory.segments]
        self.episodes += 1
        self.turns += len(trajectory.turns)
        self.tokens += sum(sizes)
        self.longest = max(self.longest, *sizes)
        for turn in trajectory.turns:
            self.drifts[turn.drift] = self.drifts.get(turn.drift, 0) + 1


def take_in(source: str, output: str | Path, wanted: Wanted) -> Taken:
    """Writes the conversations of ``source`` as records.

    Args:
        source: See :func:`agentopd.sharing.files.read`.
        output: A folder without records; it gets ``records/``, a step for every 256 conversations.
        wanted: How.

    Raises:
        RecordError: ``output`` has records, ``source`` cannot be read or has no conversation, or a row is bad: the message names its file, its
            line and what is wrong.
    """
    folder = folder_of(output)
    if folder.exists() and any(folder.iterdir()):
        raise RecordError(f"{folder} has records already; choose another output")
    told = Taken()
    with files.whole(folder) as aside:
        _write(_trajectories(source, Path(output).resolve().name, wanted, told), aside, told)
        if not told.episodes:
            raise RecordError(f"{source} has no conversation that can be read{_why(told)}")
    return told


def _write(trajectories: Iterable[Trajectory], folder: Path, told: Taken) -> None:
    """Writes episodes, a step for every few hundred."""
    writer, left = store.RecordWriter(folder), iter(trajectories)
    while kept := list(islice(left, A_STEP)):
        for trajectory in kept:
            told.add(trajectory)
        writer.write(kept[0].key.step, [Record(trajectory) for trajectory in kept])


def _why(told: Taken) -> str:
    return f"; {told.skipped} rows are bad, the first: {told.reasons[0]}" if told.skipped else ""


def _trajectories(source: str, run: str, wanted: Wanted, told: Taken) -> Iterator[Trajectory]:
    read, number, repeats = READERS[wanted.format], 0, Repeats()
    for place, row in files.read(source):
        try:
            if isinstance(row, ValueError):
                raise row
            key = Key(run, number // A_STEP, number % A_STEP)
            trajectory = repeats.own(trajectory_of(read(row), key, wanted))
        except (ValueError, RecursionError, ConfigError) as error:
            reason = f"{place}: {error}"
            if not wanted.skip_bad:
                raise RecordError(f"{reason} (skip_bad=True, or --skip-bad, leaves such rows out)") from None
            told.skipped += 1
            told.reasons += [reason] if len(told.reasons) < TOLD else []
            continue
        number += 1
        yield trajectory


def trajectory_of(talk: Talk, key: Key, wanted: Wanted) -> Trajectory:
    """One conversation as an episode.

    Its actor is ``imported``, and so is the source of its segments; ``versions`` has that name too.

    Raises:
        ValueError: It has no message of the assistant to learn from, or one that no action can hold.
        ConfigError: The chat template refuses it.
    """
    first = next((at for at in talk.turns if at not in talk.untrained), None)
    if first is None:
        raise ValueError("it has no message of the assistant that is to be learned from; give one, without weight 0")
    if not first:
        raise ValueError("it begins with a message of the assistant; put what that answers before it")
    turns, segments = _Tokens(talk, wanted.chat).written(first)
    rewards = facts.rewards_of(talk.facts, len(turns))
    advice = facts.advice_of(talk.facts, len(turns))
    outcome = facts.outcome_of(talk.facts, wanted.success)
    turns = [replace(turn, reward=one, advice=word) for turn, one, word in zip(turns, rewards, advice, strict=True)]
    turns[-1] = replace(turns[-1], terminated=outcome.stop == "terminated", truncated=outcome.stop == "truncated")
    return Trajectory(
        key=key,
        task=facts.task_of(talk, wanted.env),
        actors=(IMPORTED,),
        segments=tuple(segments),
        turns=tuple(turns),
        outcome=outcome,
        privileged=facts.privileged_of(talk.facts),
        versions={**package_versions(), IMPORTED: str(wanted.chat.tokenizer.name_or_path)},
        opening=talk.messages[:first],
        tools=talk.tools,
        origin=facts.origin_of(talk.facts),
        family=facts.family_of(talk.facts),
    )


class _Tokens:
    """Writes the turns of one conversation, each behind what its model would have read there."""

    def __init__(self, talk: Talk, chat: Chat) -> None:
        self._talk, self._chat = talk, chat
        self._tools: list[Any] = list(talk.tools)
        self._segments: list[SegmentBuilder] = []
        self._still: set[int] = set()

    def written(self, first: int) -> tuple[list[Turn], list[Segment]]:
        """The turns from the message ``first`` on, and all segments."""
        messages = self._talk.messages
        acted = [at for at in self._talk.turns if at >= first]
        shown = list(messages[:first])
        self._segments.append(SegmentBuilder(self._chat.prompt(shown, self._tools)))
        turns = []
        for number, (at, following) in enumerate(zip(acted, [*acted[1:], len(messages)], strict=True)):
            if at in self._talk.untrained:
                self._still.add(number)
            turn, shown = self._turn(number, shown, messages[at], messages[at + 1 : following], at == acted[-1])
            turns.append(turn)
        return turns, [self._built(segment) for segment in self._segments]

    def _turn(
        self, number: int, shown: list[Message], message: Message, observations: Sequence[Message], last: bool
    ) -> tuple[Turn, list[Message]]:
        """One turn, and the conversation behind it."""
        canonical, thought = written(message)
        tokens = self._chat.write(shown, canonical, self._tools, thought)
        action, segment = self._chat.read(tokens, self._tools, self._segments[-1].tokens), len(self._segments) - 1
        thinking = self._chat.thought_size(self._segments[-1].tokens, tokens)
        start, stop = self._segments[-1].add_action(tokens, [math.nan] * len(tokens), number, [0] * len(tokens))
        drift: Any = "last"
        if not last:
            extension = self._chat.extend(shown, action, observations, self._tools)
            drift = extension.drift
            if drift == "forked":
                self._segments.append(SegmentBuilder(extension.tokens))
            else:
                self._segments[-1].add_context(extension.tokens)
        turn = Turn(
            index=number,
            actor=IMPORTED,
            segment=segment,
            start=start,
            stop=stop,
            text=thought + canonical,
            action=canonical,
            calls=parse_action(canonical).calls,
            observations=tuple(observations),
            drift=drift,
            thinking=thinking,
        )
        return turn, [*shown, action.message, *observations]

    def _built(self, builder: SegmentBuilder) -> Segment:
        segment = builder.build(IMPORTED)
        for turn in self._still:
            segment.trainable_T[segment.turn_T == turn] = False
        return segment
