"""An episode as another model's tokenizer and chat template write it, turn by turn, beside what the student wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np

from agentopd.chat import Chat
from agentopd.chat.conversation import thought_of, without_oldest
from agentopd.chat.token_bytes import TokenBytes
from agentopd.chat.tokenizer import special_ids
from agentopd.teachers.alignment import OURS, THEIRS, Cut, Pair, align, said_of
from agentopd.teachers.views import prompt_of
from agentopd.tooling.action import call, parse_action
from agentopd.types import Matched, Message, Trajectory, Turn


@dataclass(frozen=True, slots=True)
class Rewritten:
    """One turn in the other model's tokens."""

    turn: int
    view: int
    """Which of the episode's views it stands in."""
    start: int
    """Where it starts there."""
    tokens: tuple[int, ...]


@dataclass(slots=True)
class Views:
    """What the other model reads of an episode: one sequence as long as its template only adds to it, else a new one."""

    tokens: list[list[int]] = field(default_factory=list)
    turns: list[Rewritten] = field(default_factory=list)


def rewritten(trajectory: Trajectory, chat: Chat, student: Chat) -> Views:
    """The turns of an episode as ``chat`` writes them, each behind what the student saw there.

    Earlier turns are the messages that ``chat`` makes of what it wrote. Those that rollout had dropped to make room are dropped
    here too.

    Args:
        trajectory: The episode.
        chat: The other model's.
        student: What wrote the episode.

    Raises:
        ConfigError: The template refuses the conversation.
        TeacherError: A later segment's prompt is not what ``student`` gives for its messages.
    """
    views, whole, dropped, tools = Views(), list(trajectory.opening), -1, list(trajectory.tools)
    shown = whole
    for turn in trajectory.turns:
        if (missing := _dropped(trajectory, turn, dropped, student)) != dropped:
            dropped, shown = missing, _without(whole, missing)
            views.tokens.append(chat.prompt(shown, tools))
        tokens = write(chat, shown, turn, trajectory)
        views.turns.append(Rewritten(turn.index, len(views.tokens) - 1, len(views.tokens[-1]), tuple(tokens)))
        action, observations = chat.read(tokens, tools, views.tokens[-1]), list(turn.observations)
        views.tokens[-1] += tokens
        if turn is not trajectory.turns[-1]:
            extension = chat.extend(shown, action, observations, tools)
            if extension.drift == "forked":
                views.tokens.append([])
            views.tokens[-1] += extension.tokens
        whole, shown = ([*messages, action.message, *observations] for messages in (whole, shown))
    return views


def _dropped(trajectory: Trajectory, turn: Turn, before: int, student: Chat) -> int:
    """How many of the oldest turns the student did not see any more; ``before`` is that of the turn before."""
    first = next(one for one in trajectory.turns if one.segment == turn.segment)
    if turn.index == trajectory.turns[0].index:
        return 0
    if turn is not first:
        return before
    seen, _ = prompt_of(trajectory, turn.segment, student)
    return _actions(trajectory.opening) + turn.index - _actions(seen)


def _actions(messages: Sequence[Message]) -> int:
    return sum(message["role"] == "assistant" for message in messages)


def _without(messages: list[Message], count: int) -> list[Message]:
    return messages if not count else next(islice(without_oldest(messages), count - 1, None))


def write(chat: Chat, messages: Sequence[Message], turn: Turn, trajectory: Trajectory) -> list[int]:
    """A turn as ``chat`` writes it after ``messages``: what was thought, said and called; as it stands where a call is malformed."""
    tools, parsed = list(trajectory.tools), parse_action(turn.action)
    if parsed.problems:
        return chat.write(messages, turn.text, tools)
    return chat.write(messages, turn.action, tools, thought_of(turn, parsed))


Begins: TypeAlias = tuple[int, int]
"""A token of the student's and one of the other's."""
NOTHING: Begins = (-1, -1)


@dataclass(frozen=True, slots=True)
class Beside:
    """A turn of the student's and the same in the other model's tokens."""

    pairs: list[Pair]
    """Of tokens, counted from the start of the turn on each side."""
    size: int
    """Bytes of the student's text."""
    coming: list[Begins]
    """For each pair the tokens with which each side would begin what could come there in a form of its own; :data:`NOTHING` without."""

    @property
    def share(self) -> float:
        """The share of the student's bytes that stand in the other's text too; 1 where it wrote none."""
        return sum(pair.size for pair in self.pairs if pair.same) / self.size if self.size else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Aligner:
    """Lays turns of two chats side by side."""

    student: Chat
    other: Chat
    ours: TokenBytes
    theirs: TokenBytes
    end_of_turn: bool = True
    """Whether the ends of a turn are aligned too, where the student ended its turn."""
    forms: bool = True
    """Whether what each writes in a form of its own is; see :func:`align`."""
    calls: dict[str, tuple[Begins, bool]] = field(default_factory=dict)
    """Of calls, by the tools' names as far as that was asked: what each side begins them with, and whether both write them alike."""

    def beside(self, trajectory: Trajectory, turn: Turn, again: Rewritten) -> Beside:
        """What of a turn is aligned with the same turn written again.

        A malformed call has no counterpart where both write calls in forms of their own, and nothing of its turn is aligned: read as
        text, what is right about it would be as unlikely as what is wrong.
        """
        tokens = trajectory.segments[turn.segment].tokens_T[turn.start : turn.stop].tolist()
        said_size, written_size = self.student.before_end(tokens), self.other.before_end(again.tokens)
        ours, theirs = self._cuts(tokens[:said_size], again.tokens[:written_size])
        size, parsed = sum(char != OURS for char in ours.text), parse_action(turn.action)
        begins, alike = self._calls(trajectory) if self.forms and trajectory.tools else (NOTHING, True)
        if parsed.problems and not alike:
            return Beside([], size, [])
        thought = thought_of(turn, parsed)
        texts = [turn.text] if parsed.problems else [thought, parsed.content]
        calls = [] if parsed.problems else parsed.calls
        said = [] if ours.text == theirs.text else said_of(texts, calls, ours.text, theirs.text)
        pairs = align(ours, theirs, said, self.forms)
        if said_size < len(tokens) and self.end_of_turn:
            pairs += _ends((said_size, len(tokens)), (written_size, len(again.tokens)))
        return Beside(pairs, size, coming(pairs, tokens, again.tokens, begins))

    def _cuts(self, ours: Sequence[int], theirs: Sequence[int]) -> tuple[Cut, Cut]:
        return Cut.of(self.ours.pieces(ours), OURS), Cut.of(self.theirs.pieces(theirs), THEIRS)

    def _calls(self, trajectory: Trajectory) -> tuple[Begins, bool]:
        """How each side writes a call; see :attr:`calls`. A first token of the same bytes on both sides tells nothing."""
        tools = list(trajectory.tools)
        name = tools[0]["function"]["name"]
        if name not in self.calls:
            chats = self.student, self.other
            sides = [_called(chat, trajectory.opening, call(name), tools) for chat in chats]
            ours, theirs = self._cuts(*(t[: c.before_end(t)] for c, t in zip(chats, sides, strict=True)))
            at, their_at = (next(n for n, piece in enumerate(cut.pieces) if piece) for cut in (ours, theirs))
            first = sides[0][at], sides[1][their_at]
            begins = NOTHING if ours.pieces[at] == theirs.pieces[their_at] else first
            self.calls[name] = begins, ours.text == theirs.text
        return self.calls[name]

    def matched(self) -> Matched:
        """The ids of the same bytes, and those that end a turn, from the first on; of equal vocabularies each id and itself, special
        ones too."""
        ours, theirs = self.student.tokenizer, self.other.tokenizer
        if ours.get_vocab() == theirs.get_vocab() and special_ids(ours) == special_ids(theirs):
            every = np.arange(len(ours), dtype=np.int32)
            return Matched(every, every, same=True)
        known, pairs = self.theirs.by_bytes(), dict[int, int]()
        for piece, i in self.ours.by_bytes().items():
            if piece in known:
                pairs[i] = known[piece]
        closings = self.student.closing, self.other.closing
        usual = (*closings[0], self.student.end_of_turn), (*closings[1], self.other.end_of_turn)
        after_calls = (*closings[0], self.student.end_after_calls), (*closings[1], self.other.end_after_calls)
        for end, other in chain(zip(*usual, strict=False), zip(*after_calls, strict=False)):
            if end not in pairs and other not in pairs.values():
                pairs[end] = other
        both = np.array(sorted(pairs.items()), dtype=np.int32).reshape(-1, 2)
        return Matched(both[:, 0].copy(), both[:, 1].copy())


def _called(chat: Chat, opening: Sequence[Message], action: str, tools: Sequence[Mapping[str, Any]]) -> list[int]:
    """A call as ``chat`` writes it, without what closes a thought that the prompt opened, and the newlines behind that."""
    tokens = chat.write(opening, action, tools)
    begin = chat.thought_size(chat.prompt(opening, tools), tokens)
    while begin and not str(chat.tokenizer.decode(tokens[begin])).strip():
        begin += 1
    return tokens[begin:]


def _ends(ours: tuple[int, int], theirs: tuple[int, int]) -> list[Pair]:
    """The ends of a turn: token by token where both have as many, else as a whole."""
    each = zip(range(*ours), range(*theirs), strict=False)
    alike = ours[1] - ours[0] == theirs[1] - theirs[0]
    return [Pair((a, a + 1), (b, b + 1), 0) for a, b in each] if alike else [Pair(ours, theirs, 0)]


def coming(pairs: Sequence[Pair], ours: Sequence[int], theirs: Sequence[int], begins: Begins) -> list[Begins]:
    """What could come at each of ``pairs`` instead: the next form of the turn, and behind its last one another call, which ``begins`` so.

    At a form there is nothing else: how its other ways would begin is not known.
    """
    found, following = [], begins
    for pair in reversed(pairs):
        first = ours[pair.ours[0]], theirs[pair.theirs[0]]
        is_form = not pair.same or first[0] == begins[0]
        found.append(NOTHING if is_form else following)
        following = first if is_form else following
    return found[::-1]
