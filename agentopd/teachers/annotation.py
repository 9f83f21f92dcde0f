"""All teachers on all trajectories: out come records."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from agentopd.errors import AgentOPDError, TeacherError, describe
from agentopd.profiling import span
from agentopd.teachers.base import Combining, Teacher
from agentopd.types import Aligned, Annotation, Block, Bools, Dense, Key, Mixture, Record, Sparse, Trajectory

_log = logging.getLogger(__name__)


def annotate(
    teachers: Mapping[str, Teacher],
    trajectories: Sequence[Trajectory],
    max_new_tokens: int | None = None,
    earlier: Mapping[str, Mapping[Key, Annotation]] = MappingProxyType({}),
) -> list[Record]:
    """Lets every teacher annotate every trajectory, those that read others after these.

    A corrected action that is longer than a turn may be is left out, its turn skipped, and the log says so.

    Args:
        teachers: By name; annotations stand in this order.
        trajectories: What the student did. They are not changed.
        max_new_tokens: Of one turn; ``None`` for no limit.
        earlier: By teacher, what it has said of some of them already; it is not asked of these again.

    Returns:
        A record for each trajectory, in the same order.

    Raises:
        TeacherError: A teacher failed, or what it returned does not fit the trajectories. The message names the teacher.
    """
    heard: dict[str, list[Annotation]] = {}
    for name in sorted(teachers, key=lambda name: isinstance(teachers[name], Combining)):  # a stable order
        known = earlier.get(name, {})
        asked = [one for one in trajectories if one.key not in known]
        told = iter(annotations_of(teachers[name], asked, heard) if asked or not known else [])
        heard[name] = [known[one.key] if one.key in known else next(told) for one in trajectories]
    said = [heard[name] for name in teachers]
    if max_new_tokens is not None:
        own = [len(trajectory.segments) for trajectory in trajectories]
        said = [[_within(one, max_new_tokens, n) for one, n in zip(column, own, strict=True)] for column in said]
    return [Record(trajectory, tuple(column[b] for column in said)) for b, trajectory in enumerate(trajectories)]


def annotations_of(
    teacher: Teacher,
    trajectories: Sequence[Trajectory],
    heard: Mapping[str, Sequence[Annotation]] = MappingProxyType({}),
) -> list[Annotation]:
    """What ``teacher`` says, who may read what was ``heard`` of others.

    Raises:
        TeacherError: It failed, or what it returned does not fit.
    """
    try:
        with span(f"teacher {teacher.name}"):
            if isinstance(teacher, Combining):
                annotations = list(teacher.combine(trajectories, heard))
            else:
                annotations = list(teacher.annotate(trajectories))
    except AgentOPDError:
        raise
    except Exception as error:
        raise TeacherError(f"teacher {teacher.name!r} failed: {describe(error)}") from error
    if len(annotations) != len(trajectories):
        raise TeacherError(
            f"teacher {teacher.name!r} returned {len(annotations)} annotations for {len(trajectories)} trajectories; "
            "return one each, in order"
        )
    for annotation, trajectory in zip(annotations, trajectories, strict=True):
        problem = _problem(teacher, annotation, trajectory)
        if problem:
            raise TeacherError(f"teacher {teacher.name!r}, trajectory {trajectory.key}: {problem}")
    return annotations


def _within(annotation: Annotation, limit: int, own: int) -> Annotation:
    """``annotation`` of a trajectory with ``own`` segments without the corrected actions that a turn of the student could not hold."""
    lengths = [int((segment.turn_T >= 0).sum()) for segment in annotation.segments]
    if max(lengths, default=0) <= limit:
        return annotation
    _log.warning(
        "teacher %r: a corrected action of %d tokens is left out, since rollout.max_new_tokens=%d",
        annotation.teacher, max(lengths), limit,
    )  # fmt: skip
    turns = [int(segment.turn_T.max()) for segment in annotation.segments]
    late = {turn for turn, length in zip(turns, lengths, strict=True) if length > limit}
    kept = [s for s, turn in enumerate(turns) if turn not in late]
    return replace(
        _with_segments(annotation, kept, own),
        skip_S=annotation.skip_S | np.isin(np.arange(len(annotation.skip_S)), list(late)),
        corrected_S=tuple(None if s in late else action for s, action in enumerate(annotation.corrected_S)),
    )


def _with_segments(annotation: Annotation, kept: Sequence[int], own: int) -> Annotation:
    """``annotation`` with some of its own segments, and no rows in the others."""
    number = np.array(
        [*range(own), *(own + kept.index(s) if s in kept else -1 for s in range(len(annotation.segments)))]
    )
    segment_N = number[annotation.segment_N].astype(np.int32)
    here_N = segment_N >= 0
    return replace(
        annotation,
        segments=tuple(annotation.segments[s] for s in kept),
        segment_N=segment_N[here_N],
        index_N=annotation.index_N[here_N],
        block=annotation.block if here_N.all() else _selected(annotation.block, here_N),
        taken_logprob_N=annotation.taken_logprob_N[here_N],
        entropy_N=annotation.entropy_N[here_N],
        statistics={name: column[here_N] for name, column in annotation.statistics.items()},
    )


def _selected(block: Block, here_N: Bools) -> Block:
    """Some rows of a block."""
    if isinstance(block, Dense):
        return Dense(block.hidden_N_H[np.flatnonzero(here_N)], block.head)
    if isinstance(block, Mixture):
        return Mixture(tuple(Dense(one.hidden_N_H[np.flatnonzero(here_N)], one.head) for one in block.members))
    if isinstance(block, Sparse):
        return Sparse(block.ids_N_K[here_N], block.logprob_N_K[here_N], block.logtail_N[here_N], block.of)
    return block


def _problem(teacher: Teacher, annotation: Annotation, trajectory: Trajectory) -> str | None:
    """What does not fit between an annotation and its trajectory."""
    rows, turns = len(annotation.segment_N), len(trajectory.turns)
    if annotation.teacher != teacher.name:
        return f"the annotation is signed {annotation.teacher!r}; sign it with the teacher's name"
    for name in ("reward_S", "skip_S", "corrected_S"):
        length = len(getattr(annotation, name))
        if length != turns and (name != "corrected_S" or length):
            return f"{name} has {length} entries for {turns} turns"
    if np.isinf(annotation.reward_S).any():
        turn = int(np.flatnonzero(np.isinf(annotation.reward_S))[0])
        return f"the reward of turn {turn} is infinite, or too large for float32 (3.4e38); scale it down, or give nan for none"
    columns = {name: getattr(annotation, name) for name in ("index_N", "taken_logprob_N", "entropy_N")}
    for name, column in {**columns, **annotation.statistics}.items():
        if len(column) != rows:
            return f"{name} has {len(column)} entries and segment_N has {rows}"
    return _unreadable(teacher, annotation) or _misplaced(annotation, trajectory)


def _unreadable(teacher: Teacher, annotation: Annotation) -> str | None:
    """What keeps the block from being read."""
    block, rows = annotation.block, len(annotation.segment_N)
    dense = block.members if isinstance(block, Mixture) else (block,) if isinstance(block, Dense) else ()
    for one in (block.dense,) if isinstance(block, Aligned) else dense:
        if one.head not in teacher.heads:
            return f"its block names the head {one.head!r}; the teacher has: {', '.join(teacher.heads) or 'none'}"
    if isinstance(block, Aligned):
        return _unaligned(block, rows)
    lengths = [len(one.hidden_N_H) for one in dense] + ([len(block.ids_N_K)] if isinstance(block, Sparse) else [])
    wrong = [length for length in lengths if length != rows]
    return f"its block has {wrong[0]} rows and segment_N has {rows}" if wrong else None


def _unaligned(block: Aligned, rows: int) -> str | None:
    """What keeps the spans of a block from being read."""
    ends = block.span.student_P_2
    columns = (
        ends,
        block.span.teacher_P_2,
        block.dense.hidden_N_H,
        block.token_P,
        block.rest_P,
        block.same_P,
        block.next_P_2,
    )
    lengths = {len(one) for one in columns}
    if len(lengths) > 1:
        return f"the columns of its spans have {' and '.join(map(str, sorted(lengths)))} entries; give one each a span"
    starts = [0, *ends[:, 1].tolist()]
    if starts != [*ends[:, 0].tolist(), rows] or (ends[:, 0] >= ends[:, 1]).any():
        return f"its spans are not one behind the other over its {rows} rows"
    return None


def _misplaced(annotation: Annotation, trajectory: Trajectory) -> str | None:
    """The first row that is no action token of the trajectory, nor of a correction, or whether one comes twice."""
    action_N = np.zeros(len(annotation.segment_N), dtype=np.bool_)
    for s, segment in enumerate((*trajectory.segments, *annotation.segments)):
        here_N = (annotation.segment_N == s) & (annotation.index_N >= 0) & (annotation.index_N < len(segment))
        action_N[here_N] = segment.turn_T[annotation.index_N[here_N]] >= 0
    if not action_N.all():
        n = int(np.argmin(action_N))
        return f"its row at segment {annotation.segment_N[n]}, position {annotation.index_N[n]} is not an action token"
    rows_N_2 = np.stack([annotation.segment_N, annotation.index_N], axis=1)
    return "two of its rows are the same action token" if len(np.unique(rows_N_2, axis=0)) < len(rows_N_2) else None
