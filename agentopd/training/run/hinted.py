"""Episodes in the privileged form: behind a prompt that holds a hint."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agentopd.chat import Chat, Hint
from agentopd.teachers.views import from_segments, hinted_view
from agentopd.types import CONTEXT, Segment, Trajectory


def partly_hinted(trajectories: Sequence[Trajectory], share: float, chat: Chat, hint: Hint) -> list[Trajectory]:
    """The same episodes, ``share`` of those in the hint's environments behind it, evenly spread.

    These are for a stage before training, whose model is to learn to use what it is shown; no student's own episode holds a hint.
    """
    places = [p for p, one in enumerate(trajectories) if hint.shown_in(one.task.env_id)]
    chosen = {p for i, p in enumerate(places) if math.floor((i + 1) * share) > math.floor(i * share)}
    return [hinted(one, chat, hint) if p in chosen else one for p, one in enumerate(trajectories)]


def hinted(trajectory: Trajectory, chat: Chat, hint: Hint) -> Trajectory:
    """The episode as if its actor had been shown the hint.

    Raises:
        ConfigError: The hint names a fact that the environment did not tell.
    """
    segments = tuple(_hinted(trajectory, i, chat, hint) for i in range(len(trajectory.segments)))
    added = [len(new.tokens_T) - len(old.tokens_T) for new, old in zip(segments, trajectory.segments, strict=True)]
    turns = (
        replace(turn, start=turn.start + added[turn.segment], stop=turn.stop + added[turn.segment])
        for turn in trajectory.turns
    )
    return replace(trajectory, segments=segments, turns=tuple(turns))


def _hinted(trajectory: Trajectory, segment: int, chat: Chat, hint: Hint) -> Segment:
    view, old = hinted_view(trajectory, segment, chat=chat, hint=hint), trajectory.segments[segment]
    size = len(view.tokens_T)
    new = replace(
        old,
        tokens_T=view.tokens_T,
        turn_T=np.full(size, CONTEXT, np.int32),
        actor_T=np.full(size, CONTEXT, np.int32),
        trainable_T=np.zeros(size, np.bool_),
        logprob_T=np.zeros(size, np.float32),
    )
    for name in ("turn_T", "actor_T", "trainable_T", "logprob_T"):
        columns_T = [getattr(one, name) for one in trajectory.segments]
        getattr(new, name)[view.position_A] = from_segments(view, columns_T)
    return new
