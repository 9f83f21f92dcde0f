"""A trial of one's own parts on made-up rows, so that what is wrong with them is found before a stage is fitted."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from agentopd.config import Config
from agentopd.errors import AgentOPDError, ConfigError
from agentopd.objective import Head, LiveColumns, Objective, Rows, cut, loss, prepare, statistics
from agentopd.objective.columns import Reals
from agentopd.objective.contract import PartError, is_own
from agentopd.objective.prepare import IDLE
from agentopd.rollout import TaskStream
from agentopd.settings.choice import Choice, choices_in
from agentopd.settings.clock import Clock
from agentopd.teachers import members_of, rowless, traits_of
from agentopd.teachers.ensemble import mixed
from agentopd.training.checks.roles import used_teachers
from agentopd.types import (
    CONTEXT,
    CORRECTED,
    EXPERT,
    Annotation,
    Dense,
    Ints,
    Key,
    Outcome,
    Record,
    Segment,
    Task,
    ToolCall,
    Trajectory,
    Turn,
)

HIDDEN, TOKENS, CHUNK_ROWS = 8, 3, 16
"""Of the made-up models, of a made-up turn (the first is context), and of the loss: a real vocabulary times this is small."""
LOOKED_AT = 64
"""Tasks of the run among which one of each environment is looked for."""


def try_own_parts(config: Config, vocabulary: int) -> None:
    """Prepares, and takes the loss of, a made-up batch, where the method has parts of one's own.

    The rows are made to be selected by the method's terms: episodes of the run's own tasks, won and lost, by every actor of every
    source, with rewards, log-probabilities and entropies such as there may be, over the run's own vocabulary. Only what a part of
    one's own gets wrong is reported. A method with a teacher of one's own is not tried: that teacher alone knows what it says.

    Raises:
        ConfigError: A part of one's own raised, or returned something else than its contract says, or what it returns for a row
            depends on other rows.
    """
    teachers = used_teachers(config)
    if not _has_own_parts(config.objective) or any(is_own(choice) for choice in teachers.values()):
        return
    try:
        _try(config, teachers, vocabulary)
    except PartError as error:
        if error.own:
            raise ConfigError(f"{error}; this was a trial on made-up rows, before anything is fitted") from error
    except (AgentOPDError, ValueError):  # anything else that made-up rows lack is for the run to find, or not
        return


def _has_own_parts(objective: Objective) -> bool:
    return any(map(is_own, choices_in((objective.aggregate, objective.coupling, objective.terms))))


def _try(config: Config, kinds: Mapping[str, Choice], vocabulary: int) -> None:
    random = torch.Generator().manual_seed(0)
    student, *theirs = (Head(torch.randn(vocabulary, HIDDEN, generator=random)) for _ in range(1 + len(kinds)))
    heads = dict(zip(kinds, theirs, strict=True))
    rows = Rows.of(
        [_record(config, kinds, heads, trajectory, random) for trajectory in _trajectories(config, vocabulary)]
    )
    rows = rows.with_special(())
    if config.objective.needs_live:
        rows = rows.with_live(LiveColumns(np.full(len(rows), -1.0), np.full(len(rows), 1.0)))
    names = config.objective.names  # told already, so that nothing is logged of made-up rows
    told = {f"objective/{name}/{what}": 1.0 for name in names for what in IDLE}
    prepared = prepare(config.objective, rows, Clock(config.train.steps // 2, config.train.steps, told))
    for batch in cut(prepared, max_tokens=4096):
        hidden_A_H = torch.randn(len(batch.row_A), HIDDEN, generator=random).requires_grad_()
        gradients: list[Tensor] = []
        for chunk_rows in (CHUNK_ROWS, CHUNK_ROWS // 3):
            total = loss(hidden_A_H, student, heads, batch, config.temperature, chunk_rows).loss
            gradients += torch.autograd.grad(total, hidden_A_H)
        _require_equal(config.objective, *gradients)


def _require_equal(objective: Objective, whole_A_H: Tensor, cut_A_H: Tensor) -> None:
    """Raises PartError where a part of one's own has a gradient that is not finite, or depends on how a batch is cut."""
    if not (whole_A_H.isfinite().all() and cut_A_H.isfinite().all()):
        wrong = (
            "has a gradient that is not finite; look for a square root or a logarithm at 0, a difference of infinities, or a "
            "where() whose other branch is one of these"
        )
    elif not torch.allclose(whole_A_H, cut_A_H, rtol=1e-3, atol=1e-3 * float(whole_A_H.abs().max())):
        wrong = (
            "returned for a row what depends on other rows of its chunk: the gradient changes with train.chunk_rows; return for "
            "row i what row i alone decides, no mean and no state"
        )
    else:
        return
    for key, term in objective.keyed():
        parts = ("target", "support", "divergence", *(("estimator",) if term.by_token else ()))
        for part in parts:
            choice = getattr(term, part)
            if is_own(choice):
                raise PartError(f"{key}.{part}.kind={choice.kind} {wrong}", choice)


def _trajectories(config: Config, vocabulary: int) -> Iterator[Trajectory]:
    """One won and one lost for each actor of each source in each environment; the two are of one task, for groups."""
    stream = TaskStream(config.envs, config.seed, "train")
    tasks = {(task.env_id, task.tags): task for task in (stream[i] for i in range(LOOKED_AT))}
    wheres = [term.where for term in config.objective.terms]
    depth = max(where.min_turn for where in wheres) + 2
    tools = sorted({tool for where in wheres for tool in where.tool})
    begun = ((s, a, t) for s, source in config.objective.sources.items() for a in source.who for t in tasks.values())
    for i, (source, actor, task) in enumerate(begun):
        for success in (True, False):
            yield _trajectory(2 * i + success, task, source, actor, success, depth, tools, vocabulary)


def _trajectory(
    index: int, task: Task, source: str, actor: str, success: bool, depth: int, tools: Sequence[str], vocabulary: int
) -> Trajectory:
    random = np.random.default_rng(index)
    turn_T = np.repeat(np.arange(depth, dtype=np.int32), TOKENS)
    turn_T[::TOKENS] = CONTEXT
    logprob_T = np.zeros(len(turn_T)) if actor == EXPERT else random.uniform(-3.0, -0.1, len(turn_T))
    segment = _segment(random.integers(vocabulary, size=len(turn_T)).astype(np.int32), turn_T, logprob_T, source)
    calls = tuple(ToolCall(tool, {}) for tool in tools)
    turns = (Turn(s, actor, 0, TOKENS * s + 1, TOKENS * (s + 1), "", "", calls) for s in range(depth))
    outcome = Outcome(1.0 if success else 0.25, success, "terminated")
    return Trajectory(Key("trial", 0, index), task, (actor,), (segment,), tuple(turns), outcome)


def _segment(tokens_T: Ints, turn_T: Ints, logprob_T: Reals, source: str) -> Segment:
    acted_T = turn_T >= 0
    actor_T = np.where(acted_T, 0, CONTEXT).astype(np.int32)
    return Segment(tokens_T, turn_T, actor_T, acted_T, np.where(acted_T, logprob_T, 0.0).astype(np.float32), source)


def _record(
    config: Config,
    kinds: Mapping[str, Choice],
    heads: Mapping[str, Head],
    trajectory: Trajectory,
    random: torch.Generator,
) -> Record:
    """A trajectory and what each teacher says of it; those that read others after these."""
    said: dict[str, Annotation] = {}
    for name, choice in sorted(kinds.items(), key=lambda kind: traits_of(kind[1]).members):
        traits = traits_of(choice)
        if traits.model and traits.distributes:
            said[name] = _distributions(name, trajectory, heads[name], config.temperature, random)
        elif traits.members:
            parts = [said[member] for member in members_of(choice)]
            all_T = [segment.turn_T >= 0 for segment in trajectory.segments]
            said[name] = mixed(name, trajectory, parts, heads, config.temperature, all_T)
        else:
            said[name] = _corrections(name, trajectory) if traits.corrects else _rewards(name, trajectory)
    return Record(trajectory, tuple(said.values()))


def _distributions(
    name: str, trajectory: Trajectory, head: Head, temperature: float, random: torch.Generator
) -> Annotation:
    (segment,), turns = trajectory.segments, len(trajectory.turns)
    index_N = np.flatnonzero(segment.turn_T >= 0).astype(np.int32)
    hidden_N_H = torch.randn(len(index_N), HIDDEN, generator=random)
    token_N = torch.from_numpy(segment.tokens_T[index_N].astype(np.int64))
    logprob_N, entropy_N = statistics(hidden_N_H, head, token_N, temperature, CHUNK_ROWS)
    return Annotation(
        name,
        segment_N=np.zeros_like(index_N),
        index_N=index_N,
        block=Dense(hidden_N_H, name),
        taken_logprob_N=logprob_N.numpy(),
        entropy_N=entropy_N.numpy(),
        reward_S=np.full(turns, np.nan, np.float32),
        skip_S=np.zeros(turns, np.bool_),
    )


def _rewards(name: str, trajectory: Trajectory) -> Annotation:
    turns = len(trajectory.turns)
    reward_S = np.full(turns, trajectory.outcome.total_reward / turns, np.float32)
    return rowless(name, trajectory, reward_S=reward_S, skip_S=np.zeros(turns, np.bool_))


def _corrections(name: str, trajectory: Trajectory) -> Annotation:
    """In each turn the first tokens of the episode are what the teacher would have written."""
    (segment,) = trajectory.segments
    corrected = tuple(
        _segment(
            np.concatenate([segment.tokens_T[: turn.start], segment.tokens_T[:TOKENS]]),
            np.array([CONTEXT] * turn.start + [turn.index] * TOKENS, np.int32),
            np.zeros(turn.start + TOKENS),
            CORRECTED,
        )
        for turn in trajectory.turns
    )
    skip_S = np.zeros(len(trajectory.turns), np.bool_)
    return rowless(name, trajectory, skip_S=skip_S, corrected_S=("",) * len(corrected), segments=corrected)
