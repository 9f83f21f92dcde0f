"""A teacher that learns, beside the student, to tell another's episodes from the student's: what it is fooled by is rewarded."""

import copy
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from agentopd.adapters import merged
from agentopd.errors import TeacherError, under
from agentopd.forward import hidden_states
from agentopd.models import ModelConfig, NewModel, head_of, positions_of
from agentopd.objective.columns import Reals
from agentopd.packing import batches, padded
from agentopd.teachers.base import EVERYWHERE, Teacher, TeacherContext
from agentopd.teachers.grouping import Normalised, Score
from agentopd.teachers.rewards import Rewarding
from agentopd.teachers.traits import Traits, unloaded
from agentopd.types import EXPERT, STUDENT, Bools, Ints, Trajectory
from agentopd.where import Where

_log = logging.getLogger(__name__)

Above = Annotated[float, Field(gt=0.0)]
TOLD = ("pairs", "accuracy", "loss", "skipped")
"""Its metrics."""


@Traits(
    model=True,
    initial=True,
    corrects=False,
    distributes=False,
    statistics=(),
    compares=True,
    metrics=TOLD,
    idle=unloaded("attention"),
)
def discriminator(
    context: TeacherContext,
    *,
    chosen: str = EXPERT,
    model: str | None = None,
    new: NewModel | None = None,
    attention: str = "sdpa",
    learning_rate: Above = 1e-6,
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0,
    max_grad_norm: Above = 1.0,
    warm_up: Annotated[int, Field(ge=0)] = 0,
    where: Where = EVERYWHERE,
    scale: float = 1.0,
    normalised: Normalised = "none",
    max_tokens: Annotated[int, Field(ge=1)] = 16384,
) -> Teacher:
    """A model with a scalar head, D, that rewards the student's episodes and learns from them (GAD, arXiv 2511.10643).

    D(y) is read at the last action token of an episode, and is the reward of the student's, on the last turn that ``where`` selects. After
    each optimiser step it learns from the episodes that it has just scored: for every pair of an episode of ``chosen``, y_T, and one of
    the student, y_S, of the same task

        L_D = -log sigmoid(D(y_T) - D(y_S)), the mean over pairs,

    so that a reward is always of weights that have not seen its episode. The head begins at 0: before anything is learned all
    episodes are alike. It learns in float32, and reads the student's own tokens; of an episode in several segments, the last.

    Args:
        context: What the run lends.
        chosen: The actor whose episodes are the better ones, such as ``expert`` or a teacher. A source must play it and the student on the
            same tasks.
        model: A hub id or a folder of the body. It must share the student's tokenizer.
        new: A body from random weights instead. Without either, it is a copy of the student as it began.
        attention: The attention implementation of a body that is named, by its name in transformers.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        max_grad_norm: To which the norm of its gradient is clipped.
        warm_up: Optimiser steps of the student through which it learns and gives no rewards.
        where: The turns it rewards; the others it skips.
        scale: What every reward is multiplied by.
        normalised: ``group``: each less the mean of its group, over the deviation; see :func:`~agentopd.teachers.grouping.normalised`.
        max_tokens: The largest number of tokens in one forward, padding included. A longer episode is read alone.
    """
    with under(f"teachers.{context.name}"):
        if model is None and new is None:
            body = merged(copy.deepcopy(context.student()))  # a new adapter changes nothing
        else:  # what it is given may be another teacher too
            body = copy.deepcopy(context.load(ModelConfig(model=model, new=new, attention=attention)))
    critic = Critic(nn.Module.to(body, torch.float32), learning_rate, weight_decay, max_grad_norm, max_tokens)
    return Discriminator(
        name=context.name,
        where=where,
        scale=scale,
        normalised=normalised,
        chosen=chosen,
        critic=critic,
        warm_up=warm_up,
    )


class Critic:
    """A body with a scalar head, and what optimises both."""

    def __init__(
        self, body: PreTrainedModel, learning_rate: float, weight_decay: float, max_grad_norm: float, max_tokens: int
    ) -> None:
        """Takes ``body`` for its own."""
        self.body, self.max_grad_norm, self.max_tokens = body, max_grad_norm, max_tokens
        self.head = nn.Linear(
            head_of(body).weight_V_H.shape[1], 1, bias=False, device=body.device
        )  # a bias would be the same in all rewards
        nn.init.zeros_(self.head.weight)
        body.requires_grad_(False).train(False)
        body.base_model.requires_grad_(True)
        self.trained: dict[str, Tensor] = dict(body.base_model.named_parameters())
        self.trained["head"] = self.head.weight
        self.optimiser: torch.optim.Optimizer = torch.optim.AdamW(
            [*self.trained.values()], lr=learning_rate, weight_decay=weight_decay
        )

    def scores(self, texts: Sequence[Ints]) -> Reals:
        """D of each text, at its last token."""
        score_B = np.zeros(len(texts))
        with torch.no_grad():
            for batch in self._batches(texts):
                score_B[batch] = self._forward([texts[b] for b in batch]).double().cpu().numpy()
        return score_B

    def learn(self, texts: Sequence[Ints], slope_B: Reals) -> float:
        """One step of AdamW along the gradient of sum(slope * D(text)); the norm of that gradient.

        That is the gradient of any loss of the scores whose derivatives ``slope_B`` are, whichever texts are read together.
        """
        self.optimiser.zero_grad()
        for batch in self._batches(texts):
            score_B = self._forward([texts[b] for b in batch])
            (score_B * torch.from_numpy(slope_B[batch]).to(score_B)).sum().backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.trained.values(), self.max_grad_norm))
        if np.isfinite(norm):
            self.optimiser.step()
        self.optimiser.zero_grad()
        return norm

    def _batches(self, texts: Sequence[Ints]) -> list[list[int]]:
        return batches([len(text_T) for text_T in texts], self.max_tokens)

    def _forward(self, texts: Sequence[Ints]) -> Tensor:
        last_B = torch.tensor([len(text_T) - 1 for text_T in texts])
        hidden_B_T_H = hidden_states(self.body, padded(texts).to(self.body.device))
        score_B: Tensor = self.head(hidden_B_T_H[torch.arange(len(texts)), last_B].float()).squeeze(-1)
        return score_B

    def state(self) -> dict[str, Any]:
        """Weights, and the optimiser's moments, by the names of parameters."""
        moments = {name: dict(self.optimiser.state[one]) for name, one in self.trained.items()}
        return {
            "weights": {name: one.detach().clone() for name, one in self.trained.items()},
            "moments": {name: {key: value.clone() for key, value in kept.items()} for name, kept in moments.items()},
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state`."""
        for name, one in self.trained.items():
            one.copy_(state["weights"][name])
        moments = {i: dict(state["moments"][name]) for i, name in enumerate(self.trained) if state["moments"][name]}
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})


@dataclass(frozen=True, slots=True)
class Compared:
    """The episodes of a batch, as they were scored."""

    texts: list[Ints]
    score_B: Reals
    pairs: list[tuple[int, int]]
    """Of indices: the better, the worse."""

    @property
    def margin_P(self) -> Reals:
        """D(better) - D(worse) of each pair."""
        better, worse = np.array(self.pairs, np.int64).reshape(-1, 2).T
        margin_P: Reals = self.score_B[better] - self.score_B[worse]
        return margin_P

    @property
    def slope_B(self) -> Reals:
        """The derivative of the mean over pairs of -log sigmoid(margin) by each score."""
        slope_P = np.exp(-np.logaddexp(0.0, self.margin_P)) / len(self.pairs)  # sigmoid(-margin)
        slope_B = np.zeros(len(self.texts))
        for (better, worse), slope in zip(self.pairs, slope_P, strict=True):
            slope_B[better] -= slope
            slope_B[worse] += slope
        return slope_B

    def metrics(self) -> dict[str, float]:
        """How well the pairs were told apart."""
        if not self.pairs:
            return {"pairs": 0.0}
        margin_P = self.margin_P
        return {
            "pairs": float(len(margin_P)),
            "accuracy": float((margin_P > 0).mean() + 0.5 * (margin_P == 0).mean()),
            "loss": float(np.logaddexp(0.0, -margin_P).mean()),
        }


@dataclass(eq=False)
class _Memory:
    """What changes of a discriminator beside its weights."""

    steps: int = 0
    updates: int = 0
    compared: Compared | None = None
    told: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Discriminator(Rewarding):
    """See :func:`discriminator`."""

    chosen: str
    critic: Critic
    warm_up: int
    memory: _Memory = field(default_factory=_Memory)

    @property
    def version(self) -> int:
        """How often it has learned."""
        return self.memory.updates

    def metrics(self) -> dict[str, float]:
        """Of the batch that it scored last, before it learned from it: ``pairs``, and of these ``accuracy``, where equal scores are half right, and
        ``loss``; and ``skipped``, episodes that were too long."""
        told = dict(self.memory.told)
        self.memory.told.clear()
        return told

    def scores(self, trajectories: Sequence[Trajectory], selected: Sequence[Bools]) -> Sequence[Score]:
        """D of the student's episodes; nothing of others, nor while it warms up.

        Raises:
            TeacherError: A score is not finite.
        """
        longest = positions_of(self.critic.body.config)
        read = [(b, side) for b, side in enumerate(self._sides(trajectories, selected)) if side]
        texts = {b: _text(trajectories[b]) for b, _ in read}
        short = [(b, side) for b, side in read if longest is None or len(texts[b]) <= longest]
        if len(short) < len(read):
            _log.warning(
                "teacher %r: %d episodes are longer than the %d tokens that its model reads, and are skipped",
                self.name, len(read) - len(short), longest,
            )  # fmt: skip
        score_B = self.critic.scores([texts[b] for b, _ in short])
        if not np.isfinite(score_B).all():
            raise TeacherError(
                f"teacher {self.name!r}: a score is not finite; lower teachers.{self.name}.learning_rate"
            )
        pairs = list(_pairs([(trajectories[b].task.id, side) for b, side in short]))
        self.memory.compared = Compared([texts[b] for b, _ in short], score_B, pairs)
        self.memory.told = {**self.memory.compared.metrics(), "skipped": float(len(read) - len(short))}
        found = [np.nan] * len(trajectories)
        for (b, side), score in zip(short, score_B.tolist(), strict=True):
            if side == STUDENT and self.memory.steps >= self.warm_up:
                found[b] = score
        return found

    def _sides(self, trajectories: Sequence[Trajectory], selected: Sequence[Bools]) -> Iterator[str | None]:
        """Whose each episode is: the student's, that of whoever is chosen, or nobody's who is compared.

        The student's are those in which it acts in a selected turn; the other's those that it played alone, of tasks of these.
        """
        actors = [{turn.actor for turn in one.turns} if _is_written(one) else set() for one in trajectories]
        mine = [STUDENT in acting and bool(s.any()) for acting, s in zip(actors, selected, strict=True)]
        tasks = {one.task.id for one, of_student in zip(trajectories, mine, strict=True) if of_student}
        for one, acting, of_student in zip(trajectories, actors, mine, strict=True):
            whole = one.failure is None and acting == {self.chosen} and one.task.id in tasks
            yield STUDENT if of_student else self.chosen if whole else None

    def after_step(self, student: PreTrainedModel) -> None:
        """Learns from what it scored.

        Raises:
            TeacherError: Its gradient is not finite.
        """
        self.memory.steps += 1
        compared, self.memory.compared = self.memory.compared, None
        if compared is None or not compared.pairs:
            return
        norm = self.critic.learn(compared.texts, compared.slope_B)
        if not np.isfinite(norm):
            raise TeacherError(
                f"teacher {self.name!r}: the norm of its gradient is {norm}; lower teachers.{self.name}.learning_rate"
            )
        self.memory.updates += 1

    def state(self) -> dict[str, Any]:
        """Steps, weights and moments."""
        return {"steps": self.memory.steps, "updates": self.memory.updates, **self.critic.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state`."""
        self.memory.steps, self.memory.updates = state["steps"], state["updates"]
        self.critic.restore(state)


def _is_written(trajectory: Trajectory) -> bool:
    return any((segment.turn_T >= 0).any() for segment in trajectory.segments)


def _text(trajectory: Trajectory) -> Ints:
    """The tokens of an episode up to the last that somebody wrote."""
    last = next(one for one in reversed(trajectory.segments) if (one.turn_T >= 0).any())
    return last.tokens_T[: int(np.flatnonzero(last.turn_T >= 0)[-1]) + 1]


def _pairs(sides: Sequence[tuple[str, str]]) -> Iterator[tuple[int, int]]:
    """Each episode of whoever is chosen with each of the student, of one task."""
    of_task: dict[str, dict[bool, list[int]]] = defaultdict(lambda: {True: [], False: []})
    for i, (task, side) in enumerate(sides):
        of_task[task][side == STUDENT].append(i)
    for group in of_task.values():
        yield from ((better, worse) for better in group[False] for worse in group[True])
