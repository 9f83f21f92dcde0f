"""The vocabulary of agentopd. Everything else imports this file; it imports nothing of ours.

Shape suffixes, here and everywhere: ``_B`` trajectories, ``_S`` turns, ``_T`` tokens, ``_A`` action rows (one per token that a
policy produced), ``_N`` the rows of one block, ``_P`` spans of rows, ``_V`` vocabulary, ``_K`` support, ``_H`` hidden units.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Required, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Ints: TypeAlias = NDArray[np.int32]
Floats: TypeAlias = NDArray[np.float32]
Bools: TypeAlias = NDArray[np.bool_]

CONTEXT = -1
"""The turn (and actor) of a token that no policy produced."""

STUDENT = "student"
"""The actor that is trained."""

EXPERT = "expert"
"""The actor whose actions come from the environment itself."""

RECORDED = "recorded"
"""The actor whose actions come from records: those of an episode that was played before."""

Whose: TypeAlias = Literal["teacher", "student", "union"]
"""Whose likeliest tokens are meant: one's, or those of both."""

TOKENIZER, SAMPLING, ENGINE = "tokenizer", "sampling", "engine"
"""Keys of ``Trajectory.versions``: a fingerprint of the tokenizer's ids, how tokens were sampled, and what generated the student's."""

CORRECTED = "corrected"
"""The source of segments that come with an annotation: what a teacher wrote after the fact."""

IMPORTED = "imported"
"""The actor, and the source, of turns that were text before they were tokens; also a key of ``Trajectory.versions``, by it whose tokenizer."""


class Message(TypedDict, total=False):
    """One chat message in the form chat templates read. Example: ``{"role": "tool", "name": "lookup", "content": "17"}``."""

    role: Required[Literal["system", "user", "assistant", "tool"]]
    content: Required[str]
    name: str
    tool_calls: list[dict[str, Any]]
    reasoning_content: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A request to run a tool. Example: ``ToolCall("lookup", {"item": "pear"})``."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What became of one call of a tool. Example: ``CallOutcome("lookup", "tool_timeout", 5.0)``."""

    name: str
    outcome: str = "ok"
    """``ok``, or the kind of its error."""
    seconds: float = 0.0
    cut: bool = False
    """Whether the answer was longer than it may be, so that a part of it was told."""


@dataclass(frozen=True, slots=True)
class Task:
    """What rebuilds an episode's start: an environment and how to reset it."""

    env_id: str
    seed: int
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] | None = None
    split: str = "train"
    tags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A stable name of the start; episodes that share it form a group."""
        start = [self.env_id, self.seed, dict(self.kwargs), self.options]
        return hashlib.sha256(json.dumps(start, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The name of one trajectory within all records. Its text form is ``run/step/index/attempt``."""

    run: str
    step: int
    index: int
    attempt: int = 0

    def __str__(self) -> str:
        return f"{self.run}/{self.step}/{self.index}/{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Key:
        """The key of a text form; ValueError where it is none."""
        run, *numbers = text.rsplit("/", 3)
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise ValueError(f"{text!r} is no key; its form is run/step/index/attempt, such as quickstart/12/3/0")
        return cls(run, *map(int, numbers))


@dataclass(frozen=True, slots=True)
class Failure:
    """An infrastructure failure that ended an episode. ``boundary`` is ``env``, ``tool``, ``policy`` or ``teacher``."""

    boundary: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One action of a policy and what came back."""

    index: int
    actor: str
    """Who acted: ``student``, ``expert``, or the name of a teacher."""
    segment: int
    start: int
    stop: int
    """The action is ``segment.tokens_T[start:stop]``, the end-of-turn token included where one was produced. Those of its tokens that closed a
    thought beyond its budget are ``CONTEXT`` in the segment: no policy produced them."""
    text: str
    """What the model wrote, verbatim."""
    action: str
    """The canonical text that the environment's ``step`` received."""
    calls: tuple[ToolCall, ...] = ()
    observations: tuple[Message, ...] = ()
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    finish: Literal["stop", "length"] = "stop"
    """Whether the model ended its turn or was cut at the limit."""
    drift: Literal["clean", "realigned", "forked", "last"] = "last"
    """How the next observation entered: see ``agentopd.chat``. ``last`` where none did."""
    errors: tuple[str, ...] = ()
    """Kinds of bad actions in this turn, such as ``unknown_tool``; each was told to the policy as an observation."""
    advice: str | None = None
    """The environment's own expert action at the state this turn acted in, where it was asked for (privileged)."""
    seconds_policy: float = 0.0
    seconds_env: float = 0.0
    prefilled: int = 0
    """Prompt tokens that the engine processed for this turn."""
    policy_version: int = 0
    thinking: int = 0
    """The first of its tokens that are thinking in ``<think>`` marks, these included."""
    outcomes: tuple[CallOutcome, ...] = ()
    """What became of the calls that were run, in the order in which they were begun. Of ``calls`` those are missing that came behind the end
    of the episode; those that a tool made of others are there beside."""


def timeless(turn: Turn) -> Turn:
    """The turn without what clocks measured."""
    return replace(turn, seconds_policy=0.0, seconds_env=0.0, outcomes=tuple(map(untimed, turn.outcomes)))


def untimed(outcome: CallOutcome) -> CallOutcome:
    """The outcome without what a clock measured."""
    return replace(outcome, seconds=0.0)


def own_errors(stopped: bool, text: str) -> tuple[str, ...]:
    """What is wrong with an action whatever its environment says; in ``Turn.errors`` it comes first."""
    return (() if stopped else ("cut",)) + (() if text.strip() else ("empty",))


class ArrayEquality:
    """Equality, field by field, of dataclasses that hold arrays (``nan`` equals ``nan``)."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]


def _same(a: Any, b: Any) -> bool:
    """Whether ``a`` equals ``b``, where ``nan`` equals ``nan`` at any depth."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(_same, a, b))
    if is_dataclass(a) and type(a) is type(b):  # a Turn holds the arguments of its calls
        return all(_same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a is b or a == b or (a != a and b != b))


@dataclass(frozen=True, slots=True, eq=False)
class Segment(ArrayEquality):
    """One unbroken run of exact token ids. Most trajectories have one; a rewritten or dropped past forks a new one."""

    tokens_T: Ints
    turn_T: Ints
    """The turn that produced each token, ``CONTEXT`` for the rest."""
    actor_T: Ints
    """Index into ``Trajectory.actors`` of who produced each token, ``CONTEXT`` for the rest."""
    trainable_T: Bools
    logprob_T: Floats
    """Behaviour log-probability under the distribution that was sampled from; 0 for context, ``nan`` where nobody drew the token
    (text that was imported)."""
    source: str = "fresh"
    """The name, in the method, of the source that the episode is of; ``corrected`` for what a teacher wrote after the fact."""

    def __len__(self) -> int:
        return len(self.tokens_T)


Stop: TypeAlias = Literal["terminated", "truncated", "turn_limit", "token_limit", "overflow", "failed"]
"""Why an episode ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an episode ended."""

    total_reward: float
    success: bool
    stop: Stop


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory(ArrayEquality):
    """One episode, token-exact. No teacher ever changes it."""

    key: Key
    task: Task
    actors: tuple[str, ...]
    segments: tuple[Segment, ...]
    turns: tuple[Turn, ...]
    outcome: Outcome
    privileged: Mapping[str, Any] = field(default_factory=dict)
    """Facts for teachers only, from ``info["privileged"]`` of ``reset``."""
    failure: Failure | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that played it; under ``TOKENIZER`` and ``SAMPLING`` what its tokens and their log-probabilities depend on."""
    opening: tuple[Message, ...] = ()
    """The messages before the first action, as the policy was shown them, the system message among them. What followed is in
    ``turns``: ``agentopd.chat.conversation`` puts both together."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """The schemas of the tools that the policy was shown, as chat templates take them."""
    origin: Key | None = None
    """The key under which the episode was played, where ``key`` names another learning from it."""
    family: str = ""
    """The kind of task, from ``info["family"]`` of ``reset``; empty where the environment told none."""


@dataclass(frozen=True, slots=True, eq=False)
class View(ArrayEquality):
    """What a teacher reads: its own context and the student's action ids verbatim. One forward per view."""

    tokens_T: Ints
    position_A: Ints
    """Where each action token stands in ``tokens_T``; the row that predicts it is the one before."""
    segment_A: Ints
    index_A: Ints
    """Where the same token stands in the trajectory: segment, and position inside it."""


@dataclass(frozen=True, slots=True, eq=False)
class Dense(ArrayEquality):
    """A teacher's hidden states at its rows; ``head`` names the output head that turns them into logits. Transient."""

    hidden_N_H: torch.Tensor
    head: str


@dataclass(frozen=True, slots=True, eq=False)
class Mixture(ArrayEquality):
    """Several models' hidden states at the same rows; the distribution is the mean of theirs. Transient."""

    members: tuple[Dense, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Sparse(ArrayEquality):
    """A teacher's log-probabilities on a few ids per row, padded with id -1, and the log of the mass outside them."""

    ids_N_K: Ints
    logprob_N_K: Floats
    logtail_N: Floats
    of: Whose = "teacher"
    """Whose likeliest ids they are, in that one's order, as it was when the teacher was asked. Of a union [N, 2K]: the teacher's K, then the
    student's K, of which those are -1 that are among the teacher's."""


@dataclass(frozen=True, slots=True, eq=False)
class Compact(Sparse):
    """A sparse block whose log-probabilities were moved, by less than 0.05 nats where a probability is above 1e-4, to ones that take few bytes:
    see ``agentopd.records.compact``. ``of`` is ``teacher``."""

    shift_N: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    """What a row's log-probabilities were lowered by afterwards, so that its mass stayed what it was."""
    fine_N: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Rows that would have been too far off with steps as wide as elsewhere, and have steps half as wide."""


@dataclass(frozen=True, slots=True, eq=False)
class Sampled(ArrayEquality):
    """Only the log-probability of the taken token, which every annotation carries anyway (``taken_logprob_N``)."""


@dataclass(frozen=True, slots=True, eq=False)
class Span(ArrayEquality):
    """A teacher with another tokenizer: runs of rows, the student's and its own, that write the same, each as short as it can be."""

    student_P_2: Ints
    """``[start, stop)`` among the annotation's rows; the spans stand in their order and leave none out."""
    teacher_P_2: Ints
    """``[start, stop)`` among the tokens that the teacher would have written in the turns that it read; what no span has is not aligned."""
    logprob_P: Floats
    """Log-probability of what the span writes: the sum over the teacher's rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Matched(ArrayEquality):
    """Ids of two vocabularies that mean the same, each at most once, in the order of the student's."""

    student_K: Ints
    teacher_K: Ints
    same: bool = False
    """Whether it is one vocabulary, each id itself: then so is what output heads have beyond it."""


@dataclass(frozen=True, slots=True, eq=False)
class Aligned(ArrayEquality):
    """A :class:`Span` and what its distributions are made of. Transient."""

    span: Span
    dense: Dense
    """The hidden states [P, H] that predict the first of the teacher's rows in each span."""
    token_P: Ints
    """The teacher's token there."""
    rest_P: Floats
    """Log-probability of the teacher's further rows of the span; 0 where it has one."""
    same_P: Bools
    """Whether both write it in the same bytes; where not, each in a form of its own."""
    next_P_2: Ints
    """The tokens, the student's and the teacher's, that begin what could come there in a form of its own; -1 where nothing could."""
    matched: Matched


Block: TypeAlias = Dense | Mixture | Sparse | Sampled | Span | Aligned


@dataclass(frozen=True, slots=True, eq=False)
class Annotation(ArrayEquality):
    """What one teacher said about one trajectory: per action token (N rows) and per turn (S of them)."""

    teacher: str
    segment_N: Ints
    index_N: Ints
    """The action token of each row: segment (the trajectory's, then those of ``segments``), and position inside it."""
    block: Block
    taken_logprob_N: Floats
    """Log-probability of the taken token (it may lie outside a top-k)."""
    entropy_N: Floats
    """Entropy of the teacher's distribution in nats, ``nan`` where unknown."""
    reward_S: Floats
    """A reward for each turn, ``nan`` where the teacher gave none."""
    skip_S: Bools
    """Turns that this teacher declines to teach."""
    corrected_S: tuple[str | None, ...] = ()
    """A better action at the student's state, as canonical text."""
    segments: tuple[Segment, ...] = ()
    """Corrected actions as tokens, each an extra segment with source ``corrected``."""
    statistics: Mapping[str, Floats] = field(default_factory=dict)
    """Further per-row statistics of uncertainty, by name."""


@dataclass(frozen=True, slots=True, eq=False)
class Record(ArrayEquality):
    """A trajectory and everything that teachers said about it."""

    trajectory: Trajectory
    annotations: tuple[Annotation, ...] = ()
