"""Whole runs in the environment Till, and what must hold of their records whatever the format of calls."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import training_cases as cases
from interface_envs import TILL

from agentopd import records
from agentopd.chat.conversation import conversation
from agentopd.config import Config
from agentopd.isolation.session import Session
from agentopd.models import load_tokenizer
from agentopd.rollout import Generation, Request, TransformersPolicy
from agentopd.types import CONTEXT, Trajectory, Turn

Sampled = dict[tuple[tuple[int, ...], tuple[int, ...]], Generation]
"""By context and tokens, what the engine gave."""
FIRST_BY_EXPERT = {"sampler": {"acting": {"kind": "prefix", "turns": 1}}}
"""So that the episodes hold turns with calls, which a model that knows nothing would not write."""


def raw(**more: Any) -> dict[str, Any]:
    """A run of two steps in Till; keyword arguments replace its sections."""
    new = {"new": cases.TINY | {"vocab_size": 400}}
    return cases.raw(save_every=1) | {
        "env": {"id": TILL},
        "student": new,
        "teachers": {"teacher": {"kind": "local", **new}, "expert": {"kind": "expert"}},
        "stages": {"cache": cases.stage_cache(), "teacher": {"episodes": 2, "steps": 1}},
        "rollout": {"max_new_tokens": 90, "max_length": 1000, "max_turns": 3},
        "objective": FIRST_BY_EXPERT,
        "evaluation": {"tasks": 1, "during": 1},
        **more,
    }


@contextmanager
def watched() -> Iterator[Sampled]:
    """Notes what the engine samples."""
    found: Sampled = {}
    act = TransformersPolicy.act

    def noted(self: TransformersPolicy, requests: list[Request]) -> list[Generation]:
        made = act(self, requests)
        for request, one in zip(requests, made, strict=True):
            found[tuple(request.tokens), tuple(one.tokens)] = one
        return made

    TransformersPolicy.act = noted  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        TransformersPolicy.act = act  # type: ignore[method-assign]


def require_token_true(config: Config, run: Path, sampled: Sampled) -> int:
    """Holds the records of ``run`` against what was sampled and what the chat writes; how many tokens nobody chose."""
    chat, forced = config.chat(load_tokenizer(str(run / "student"))), 0
    for record in records.open(run):
        trajectory = record.trajectory
        for turn in trajectory.turns:
            forced += _require_sampled(trajectory, turn, sampled)
            segment = trajectory.segments[turn.segment].tokens_T
            prompt = chat.prompt(conversation(trajectory, turn.index, chat), list(trajectory.tools))
            assert _squashed(chat.tokenizer.decode(prompt)) == _squashed(chat.tokenizer.decode(segment[: turn.start]))
            before, own = segment[: turn.start].tolist(), segment[turn.start : turn.stop].tolist()
            assert chat.read(own, list(trajectory.tools), before).canonical == turn.action
        Session(trajectory.task, advice=False, needs_expert=False).replay(trajectory.opening, trajectory.turns)
        for segment_ in trajectory.segments:
            assert (segment_.trainable_T == (segment_.turn_T != CONTEXT)).all()
    return forced


def _require_sampled(trajectory: Trajectory, turn: Turn, sampled: Mapping[Any, Generation]) -> int:
    segment = trajectory.segments[turn.segment]
    own = slice(turn.start, turn.stop)
    context, tokens = (tuple(part.tolist()) for part in (segment.tokens_T[: turn.start], segment.tokens_T[own]))
    if turn.actor == "expert":
        assert (segment.turn_T[own] == turn.index).all()
        return 0
    made = sampled[context, tokens]
    forced_N = np.array(made.forced or [False] * len(tokens))
    assert (segment.turn_T[own] == np.where(forced_N, CONTEXT, turn.index)).all()
    assert np.allclose(segment.logprob_T[own], np.where(forced_N, 0.0, made.logprobs))
    return int(forced_N.sum())


def learned(run: Path) -> dict[tuple[str, int, int], float]:
    """What multiplies the loss of each token that the learner weighed, by episode, segment and index."""
    found: dict[tuple[str, int, int], float] = {}
    kept = records.open(run)
    for step in kept.steps:
        signals = kept.signals(step)
        assert signals is not None
        columns = (signals[name] for name in ("trajectory", "segment", "index", "loss/coef"))
        found |= {(str(key), int(s), int(i)): float(coef) for key, s, i, coef in zip(*columns, strict=True) if coef}
    return found


def chosen(run: Path) -> dict[tuple[str, int, int], int]:
    """The turn of each token that the student chose."""
    return {
        (str(record.trajectory.key), number, int(at)): int(segment.turn_T[at])
        for record in records.open(run)
        for number, segment in enumerate(record.trajectory.segments)
        for at in np.flatnonzero(segment.actor_T == record.trajectory.actors.index("student"))
    }


def _squashed(text: object) -> str:
    return "".join(str(text).split())
