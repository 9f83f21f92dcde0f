"""Small trajectories, annotations and students for the tests of the objective, and a user's own parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agentopd.objective import Batch, Head, LossOutput, Objective, Prepared, Rows, TeacherColumns, cut, loss, prepare
from agentopd.settings.clock import Clock
from agentopd.types import (
    CONTEXT,
    Annotation,
    Block,
    Dense,
    Failure,
    Key,
    Outcome,
    Record,
    Sampled,
    Segment,
    Sparse,
    Task,
    Trajectory,
    Turn,
)

V = 11
H = 6
START = Clock(0, 10)


def segment(
    tokens: Sequence[int], turns: Sequence[int], actors: Sequence[int] | None = None, source: str = "fresh"
) -> Segment:
    turn_T = np.array(turns, np.int32)
    actor_T = np.where(turn_T >= 0, 0 if actors is None else np.array(actors), CONTEXT).astype(np.int32)
    logprob_T = np.where(turn_T >= 0, -1.0 - 0.1 * (np.arange(len(turn_T)) % 5), 0.0)
    return Segment(np.array(tokens, np.int32), turn_T, actor_T, turn_T >= 0, logprob_T.astype(np.float32), source)


def episode(
    turns: Sequence[int],
    *,
    index: int = 0,
    task: int = 0,
    reward: float = 0.0,
    success: bool = False,
    failed: bool = False,
    forks: Sequence[int] = (),
    acted_by: Mapping[int, str] | None = None,
    source: str = "fresh",
    vocabulary: int = V,
) -> Trajectory:
    """``turns[s]`` action tokens in turn s, two context tokens before each; ``forks`` start a segment over."""
    rng = np.random.default_rng([index, task, len(turns)])
    actors = ("student", *sorted(set((acted_by or {}).values())))
    done: list[Segment] = []
    tokens: list[int] = []
    marks: list[int] = []
    who: list[int] = []
    made = []
    for s, size in enumerate(turns):
        if s in forks:
            done.append(segment(tokens, marks, who, source))
            tokens, marks, who = list(tokens), [CONTEXT] * len(tokens), [0] * len(tokens)
        tokens += rng.integers(0, vocabulary, 2 + size).tolist()
        marks += [CONTEXT] * 2 + [s] * size
        actor = (acted_by or {}).get(s, "student")
        who += [actors.index(actor)] * (2 + size)
        made.append(Turn(s, actor, len(done), len(tokens) - size, len(tokens), "", ""))
    done.append(segment(tokens, marks, who, source))
    failure = Failure("env", "crash", "it crashed") if failed else None
    outcome = Outcome(reward, success, "failed" if failed else "terminated")
    return Trajectory(
        Key("run", 0, index), Task("Env-v0", task), actors, tuple(done), tuple(made), outcome, failure=failure
    )


@dataclass(frozen=True)
class Saying:
    """What a teacher says of one trajectory."""

    teacher: str = "teacher"
    kind: str = "dense"
    turns: Sequence[int] | None = None
    skip: Sequence[int] = ()
    rewards: Mapping[int, float] = field(default_factory=dict)
    corrects: Mapping[int, int] = field(default_factory=dict)
    on_corrected: bool = False


def annotate(trajectory: Trajectory, saying: Saying, heads: Mapping[str, Head] | None = None, k: int = 4) -> Annotation:
    """An annotation with random hidden states; its statistics are those of the distributions that they make."""
    depth = len(trajectory.turns)
    corrected = tuple(_corrected(trajectory, s, size) for s, size in saying.corrects.items())
    places = [
        (i, t, one)
        for i, one in enumerate([*trajectory.segments, *(corrected if saying.on_corrected else ())])
        for t in np.flatnonzero(one.turn_T >= 0).tolist()
        if saying.kind != "none" and (saying.turns is None or one.turn_T[t] in saying.turns)
    ]
    hidden_N_H = torch.stack([torch.zeros(H).double(), *(_hidden(trajectory, saying, i, t) for i, t, _ in places)])[1:]
    head = (heads or {}).get(saying.teacher) or Head(torch.eye(V, H, dtype=torch.float64))
    logq = torch.log_softmax(head.logits(hidden_N_H), -1)
    tokens = torch.tensor([int(one.tokens_T[t]) for _, t, one in places], dtype=torch.int64)
    reward_S = np.array([saying.rewards.get(s, np.nan) for s in range(depth)], np.float32)
    return Annotation(
        saying.teacher,
        np.array([i for i, _, _ in places], np.int32),
        np.array([t for _, t, _ in places], np.int32),
        block_of(saying.kind, saying.teacher, hidden_N_H, logq, k),
        logq.gather(1, tokens[:, None]).squeeze(1).numpy(),
        -(logq.exp() * logq).sum(-1).numpy(),
        reward_S,
        np.isin(np.arange(depth), list(saying.skip)),
        segments=corrected,
    )


def _hidden(trajectory: Trajectory, saying: Saying, segment: int, t: int) -> Tensor:
    seed = (trajectory.key.index * 100 + segment) * 1000 + t * 10 + len(saying.teacher)
    return torch.randn(H, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block_of(kind: str, head: str, hidden_N_H: Tensor, logq_N_V: Tensor, k: int) -> Block:
    if kind == "dense":
        return Dense(hidden_N_H, head)
    if kind != "sparse":
        return Sampled()
    top = logq_N_V.topk(k)
    outside = logq_N_V.scatter(1, top.indices, -torch.inf).logsumexp(-1)
    return Sparse(top.indices.numpy(), top.values.numpy(), outside.numpy())


def _corrected(trajectory: Trajectory, s: int, size: int) -> Segment:
    turn = trajectory.turns[s]
    before = trajectory.segments[turn.segment].tokens_T[: turn.start].tolist()
    tokens = [(3 * i + s) % V for i in range(size)]
    return segment(before + tokens, [CONTEXT] * len(before) + [s] * size, source="corrected")


def record(trajectory: Trajectory, *sayings: Saying, heads: Mapping[str, Head] | None = None) -> Record:
    return Record(trajectory, tuple(annotate(trajectory, saying, heads) for saying in sayings))


def method(**settings: object) -> Objective:
    return Objective.model_validate(settings)


def prepared(objective: Objective, records: Sequence[Record], clock: Clock = START) -> Prepared:
    return prepare(objective, Rows.of(records), clock)


@dataclass
class Student:
    """Hidden states that depend on the prefix alone, and a trainable head."""

    embedding_V_H: Tensor
    head: Head

    @classmethod
    def new(cls, seed: int = 0) -> "Student":
        generator = torch.Generator().manual_seed(seed)
        embedding = torch.randn(V, H, generator=generator, dtype=torch.float64).requires_grad_()
        weight = torch.randn(V, H, generator=generator, dtype=torch.float64).requires_grad_()
        bias = torch.randn(V, generator=generator, dtype=torch.float64).requires_grad_()
        return cls(embedding, Head(weight, bias))

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        assert self.head.bias_V is not None
        return self.embedding_V_H, self.head.weight_V_H, self.head.bias_V

    def hidden(self, batch: Batch) -> Tensor:
        hidden_B_T_H = self.embedding_V_H[batch.input_ids_B_T].cumsum(1).tanh()
        return hidden_B_T_H[batch.sample_A, batch.position_A]

    def loss(
        self, ready: Prepared, heads: Mapping[str, Head], max_tokens: int = 10**6, chunk_rows: int = 5
    ) -> LossOutput:
        """The loss in padded micro-batches, summed; signals of the last."""
        outputs = [loss(self.hidden(b), self.head, heads, b, 1.0, chunk_rows) for b in cut(ready, max_tokens)]
        return LossOutput(torch.stack([output.loss for output in outputs]).sum(), outputs[-1].signals)

    def gradient(self, ready: Prepared, heads: Mapping[str, Head]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.loss(ready, heads).loss, self.parameters)


def teacher_heads(*names: str) -> dict[str, Head]:
    generator = torch.Generator().manual_seed(99)
    return {name: Head(torch.randn(V, H, generator=generator, dtype=torch.float64)) for name in names}


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.size = max([self.size, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
        return out


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the numbers that the host reads from a tensor, for each of which it would wait for a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return func(*args, **(kwargs or {}))


def number_of_turn(rows: Rows, teacher: TeacherColumns | None, *, base: float = 1.0) -> NDArray[np.float64]:
    """A user's weight."""
    return base + rows.turn_A.astype(np.float64)


def first_token(rows: Rows) -> NDArray[np.float64]:
    """A user's aggregate: all on the first row."""
    measure: NDArray[np.float64] = np.eye(1, len(rows))[0]
    return measure


def falling(clock: Clock, *, slope: float) -> float:
    """A user's schedule."""
    return 1.0 - slope * clock.step


def negative(rows: Rows, teacher: TeacherColumns | None) -> NDArray[np.float64]:
    return -np.ones(len(rows))


def too_short(rows: Rows, teacher: TeacherColumns | None) -> NDArray[np.float64]:
    return np.ones(1)


def trajectory_probability(rows: Rows, teacher: TeacherColumns | None) -> NDArray[np.float64]:
    """Turns a token mean over enumerated episodes into an expectation over them."""
    logprob_B = np.bincount(rows.trajectory_A, weights=rows.logprob_A)
    probability_A: NDArray[np.float64] = np.exp(logprob_B)[rows.trajectory_A] * len(rows)
    return probability_A


def squared_difference(logp: Tensor, logq: Tensor, *, power: float = 2.0) -> Tensor:
    """A user's divergence."""
    return (logp.exp() - logq.exp()).abs().pow(power).sum(-1)


def wrong_shape(logp: Tensor, logq: Tensor) -> Tensor:
    return (logp - logq).sum()
