"""A small world for every recipe: its episodes by all who act, and each token as an independent formula sees it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from objective_cases import H, Saying, Student, episode, record
from torch import Tensor

from agentopd.config import load_config
from agentopd.config.asked import asked
from agentopd.objective import Head, Objective, Prepared, Rows, prepare
from agentopd.objective.live import live_columns
from agentopd.settings.choice import Choice, choices_in
from agentopd.settings.clock import Clock
from agentopd.types import CORRECTED, Record

WIDE = 300
"""Tokens of the vocabulary: more than the largest top-k of a recipe."""
LIKELY = 12
"""Tokens, the first ones, that all models find likelier than the others: all that was said is made of them."""
SPECIAL = (0, 3)
"""Token ids that a tokenizer would call special."""
STEPS = 10
JUDGE = "discriminator"
ADAPTED = 0.63
"""What an adaptive schedule has come to."""
TURNS = ([2, 3, 1], [1, 2], [3], [2, 2], [1, 1, 2], [2, 1])
TASKS = (0, 0, 0, 0, 1, 1)
SURE = 2
"""The episode in which all is said that a teacher finds likeliest."""
REWARDS = (1.0, 0.2, 0.7, 0.1, 0.0, 0.9)
JUDGED = (0.25, 4.0, -1.5, 0.5, 2.0, -0.75)
"""What a discriminator says of each episode; of those that the student did not play it says nothing."""


@dataclass(frozen=True)
class Token:
    """One token that somebody took."""

    episode: int
    task: str
    source: str
    actor: str
    turn: int
    reward: float
    success: bool
    y: int
    p: Tensor
    """log p of the student, [V], differentiable."""
    q: Mapping[str, Tensor]
    """Log-probabilities of the teachers by name, [V] each."""
    old: float
    """log p of the token when it was taken."""
    judged: float
    """What a discriminator says of the episode; ``nan`` where there is none, or it says nothing."""

    @property
    def logp(self) -> Tensor:
        """log p of the token now."""
        return self.p[self.y]

    @property
    def now(self) -> float:
        """The same, a number."""
        return float(self.logp.detach())

    def logq(self, teacher: str = "teacher") -> float:
        """log q of the token."""
        return float(self.q[teacher][self.y])


@dataclass(frozen=True)
class World:
    """What a formula is a function of."""

    tokens: Sequence[Token]
    step: int
    done: float
    """The share of the run that is over."""
    adapted: float | None
    """What an adaptive schedule gives; ``None`` at first."""


@cache
def recipe(name: str) -> Objective:
    """The shipped recipe ``name``."""
    return load_config("quickstart", [f"method={name}"]).objective


@cache
def models() -> tuple[Student, Mapping[str, Head]]:
    """A student, and teachers of all names in recipes."""
    generator = torch.Generator().manual_seed(7)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    bias = torch.where(torch.arange(WIDE) < LIKELY, 8.0, 0.0).double()
    weight, embedding = (2.5 * normal(WIDE, H)).requires_grad_(), normal(WIDE, H).requires_grad_()
    student = Student(embedding, Head(weight, bias.clone().requires_grad_()))
    names = ("teacher", "reference", "shown", "previous")
    return student, {name: Head(2.0 * normal(WIDE, H), bias) for name in names}


def records(objective: Objective) -> list[Record]:
    """Six episodes of two tasks for each source, by its actors in turn; others act the second turn where the source has them."""
    heads = models()[1]
    sayings = [Saying(name) for name in sorted(objective.teachers() & heads.keys())]
    judges = sorted({one.teacher for one in asked(objective) if one.what == "reward"})
    corrects = any(CORRECTED in term.where.source for term in objective.terms)
    made = []
    for s, (name, source) in enumerate(objective.sources.items()):
        actors, others = [*source.actors], source.acts(Clock(0, STEPS)).others
        for i, turns in enumerate(TURNS):
            who = {t: actors[i % len(actors)] for t in range(len(turns))}
            if others and len(turns) > 1:
                who[1] = others[0]
            played = episode(
                turns,
                index=len(TURNS) * s + i,
                task=2 * s + TASKS[i],
                reward=REWARDS[i],
                success=REWARDS[i] > 0.5,
                acted_by={turn: actor for turn, actor in who.items() if actor != "student"},
                source=name,
                vocabulary=LIKELY,
            )
            mended = {t: 2 + t for t in range(len(turns) - 1)} if corrects else {}
            beside = [Saying("expert", kind="none", corrects=mended)] if mended else []
            beside += [Saying(one, kind="none", rewards={len(turns) - 1: REWARDS[i]}) for one in judges if one != JUDGE]
            if JUDGE in judges:
                mine = who[0] == "student"
                last, silent = len(turns) - 1, () if mine else range(len(turns))
                given = {last: JUDGED[i]} if mine else {}
                beside.append(Saying(JUDGE, kind="none", rewards=given, skip=silent))
            if i == SURE:
                _say_the_likeliest(record(played, *sayings, heads=heads))
            made.append(record(played, *sayings, *beside, heads=heads))
    return made


def _say_the_likeliest(made: Record) -> None:
    """Puts the likeliest token of a teacher in the place of each, in this record's episode."""
    for annotation in made.annotations:
        likeliest_N = models()[1][annotation.teacher].logits(annotation.block.hidden_N_H).argmax(-1)  # type: ignore[union-attr]
        for s, t, token in zip(annotation.segment_N, annotation.index_N, likeliest_N.tolist(), strict=True):
            made.trajectory.segments[s].tokens_T[t] = token


def clock_of(objective: Objective, step: int) -> Clock:
    """The clock at ``step``; from the second on, adaptive schedules have moved."""
    adaptive = [one for one in choices_in((objective.terms, objective.aggregate)) if hasattr(one.function, "advance")]
    return Clock(step, STEPS, states={one.content: _state(one) for one in adaptive} if step else {})


def _state(schedule: Choice) -> dict[str, float | bool | None]:
    return {"t": ADAPTED, "m": 0.0, "loss": None} if schedule.kind == "taid" else {"retired": True}


def world(objective: Objective, step: int, noise: float) -> tuple[Prepared, World]:
    """The batch as the library prepares it, and as the formulas see it.

    Args:
        objective: A recipe.
        step: Of ``STEPS``.
        noise: How far, in nats, the policy that acted is from the present student.
    """
    student, _ = models()
    made, clock = records(objective), clock_of(objective, step)
    rows = Rows.of(made).with_special(SPECIAL)
    live = live_columns(
        rows, lambda ids, _: student.embedding_V_H[ids].cumsum(1).tanh(), student.head, 10**6, "padded", 1.0, 100
    )
    away_A = noise * np.random.default_rng(3).standard_normal(len(rows))
    acted = replace(rows, logprob_A=live.logprob_A - away_A).with_live(live)
    tokens = [one for i, each in enumerate(made) for one in _tokens(i, each)]
    assert [token.y for token in tokens] == rows.token_A.tolist()
    old = [replace(one, old=one.now - float(away)) for one, away in zip(tokens, away_A, strict=True)]
    ready = prepare(objective, acted, clock)
    return ready, World(old, step, step / (STEPS - 1), ADAPTED if step else None)


def _tokens(i: int, made: Record) -> list[Token]:
    """Every action token of one record, read from its segments alone."""
    student, _ = models()
    played, found = made.trajectory, []
    judged = [one for one in made.annotations if one.teacher == JUDGE and not one.skip_S.all()]
    corrected = [(one, annotation.teacher) for annotation in made.annotations for one in annotation.segments]
    for s, (segment, teacher) in enumerate([*((one, "") for one in played.segments), *corrected]):
        for t in np.flatnonzero(segment.turn_T >= 0).tolist():
            state = student.embedding_V_H[torch.from_numpy(segment.tokens_T[:t].astype(np.int64))].sum(0).tanh()
            found.append(
                Token(
                    episode=i,
                    task=played.task.id,
                    source=segment.source,
                    actor=teacher or played.actors[segment.actor_T[t]],
                    turn=int(segment.turn_T[t]),
                    reward=played.outcome.total_reward,
                    success=played.outcome.success,
                    y=int(segment.tokens_T[t]),
                    p=student.head.logits(state).log_softmax(-1),
                    q={} if teacher else _said(made, s, t),
                    old=math.nan,
                    judged=max((float(np.nansum(one.reward_S)) for one in judged), default=math.nan),
                )
            )
    return found


def _said(made: Record, segment: int, t: int) -> dict[str, Tensor]:
    """What each teacher's annotation gives for one token: its hidden state, through its head."""
    said = {}
    for annotation in made.annotations:
        here = np.flatnonzero((annotation.segment_N == segment) & (annotation.index_N == t))
        if len(here):
            hidden_H = annotation.block.hidden_N_H[int(here[0])]  # type: ignore[union-attr]
            said[annotation.teacher] = models()[1][annotation.teacher].logits(hidden_H).log_softmax(-1)
    return said
