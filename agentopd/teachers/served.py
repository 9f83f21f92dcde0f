"""A teacher behind a vLLM server: token ids go to it, log-probabilities come back."""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field

from agentopd.errors import ConfigError, under
from agentopd.objective.floor import FLOOR
from agentopd.serving import WHOLE, Endpoint, Patience, Scorer, Threads, TopK
from agentopd.serving.scorer import ROUNDING
from agentopd.teachers.base import EVERYWHERE, Teacher, TeacherContext
from agentopd.teachers.hints import Told, hint_of
from agentopd.teachers.identity import Identity, digest
from agentopd.teachers.traits import Examined, Traits
from agentopd.teachers.viewing import Viewing, annotated
from agentopd.teachers.views import UnreadableError, hinted_views, own_views
from agentopd.types import Annotation, Block, Key, Sampled, Sparse, Trajectory, View
from agentopd.where import Where

PROBE = 32
"""Tokens by which a server is known again, at most."""


def _examine(given: Examined) -> int | None:
    """How many tokens the model of a server reads, which is asked whether it is there."""
    asked = ("url", "model", "top_k", "timeout", "patience", "key_env")
    return _longest(_scorer(given.name, given.ids, **{key: given.settings[key] for key in asked}))


@Traits(hint=True, corrects=False, rewards=False, statistics=("coverage",), examine=_examine)
def served(
    context: TeacherContext,
    *,
    url: str,
    model: str | None = None,
    top_k: Annotated[int, Field(ge=WHOLE)] = 64,
    temperature: Annotated[float, Field(gt=0.0)] = 1.0,
    hint: Told | None = None,
    where: Where = EVERYWHERE,
    in_flight: Annotated[int, Field(ge=1)] = 32,
    timeout: Annotated[float, Field(gt=0.0)] = 120.0,
    patience: Annotated[float, Field(ge=0.0)] = 300.0,
    key_env: str | None = None,
) -> Teacher:
    """A model that a vLLM server holds. It reads the student's own token ids, so it must share the student's tokenizer.

    An episode is sent as soon as it is over, one request a view, while others are still played. Of each token it says the
    log-probability of that token, those of its ``top_k`` most likely, and the mass outside them. ``entropy`` in its annotation is
    that of this grouped distribution, all other tokens counted as one: a lower bound of the entropy.

    Args:
        context: What the run lends.
        url: The server's address, such as ``http://127.0.0.1:8000``.
        model: The model by the name that it is served under; needed where the server has several.
        top_k: Ids a token, at most the server's ``--max-logprobs``; 0 for the token taken alone, which is all that sampled estimators
            read; -1 for all of the vocabulary, which ``support: full`` reads.
        temperature: The temperature at which the server's log-probabilities are. vLLM scores prompts at 1 whatever it is told; another
            one comes of a model whose logits are scaled, for instance by ``--hf-overrides '{"logit_scale": 1.25}'`` (0.8) where the
            architecture has that. It must be the one at which student and teacher are compared, unless ``top_k`` is -1.
        hint: What its prompt says beside what the student sees, as for ``privileged``; nothing by default.
        where: The turns and tokens that it teaches; the others cost nothing.
        in_flight: Requests at once.
        timeout: Seconds until a request is given up and tried again.
        patience: Seconds over which a request is tried again, ever less often, while the server is away.
        key_env: The environment variable of the server's key.

    Raises:
        ConfigError: The server does not serve the model; or its temperature is not that of the run.
    """
    with under(f"teachers.{context.name}"):
        if top_k != WHOLE and temperature != context.temperature:
            raise ConfigError(
                f"temperature={temperature:g}: the server's log-probabilities are at this temperature and student and teacher are compared "
                f"at {context.temperature:g}; set top_k: -1, which can be put to any, or rollout.temperature={temperature:g}, or serve the "
                f"model with --hf-overrides '{{\"logit_scale\": {1 / context.temperature:g}}}' and say temperature: {context.temperature:g}"
            )
        shown = None if hint is None else hint_of(hint, where.env)
        known = len(context.chat.tokenizer)
        scorer = _scorer(context.name, known, url, model, top_k, timeout, patience, key_env)
    return ServedTeacher(
        name=context.name,
        where=where,
        hint=shown,
        longest=_longest(scorer),
        shown=own_views if shown is None else partial(hinted_views, chat=context.chat, hint=shown),
        scorer=scorer,
        power=temperature / context.temperature,
        threads=Threads(in_flight),
    )


def _scorer(
    name: str, ids: int, url: str, model: str | None, top_k: int, timeout: float, patience: float, key_env: str | None
) -> Scorer:
    endpoint = Endpoint(f"teacher {name!r}", url, Patience(timeout, patience), key_env)
    # a server may break down where more ids are asked for than there are
    return Scorer.of(endpoint, model, min(top_k, ids), range(min(PROBE, ids)))


def _longest(scorer: Scorer) -> int | None:
    """How many tokens may be shown: it writes one behind them, which nobody reads."""
    return None if scorer.longest is None else scorer.longest - 1


@dataclass(frozen=True, eq=False, kw_only=True)
class ServedTeacher(Viewing):
    """See :func:`served`."""

    scorer: Scorer
    power: float
    """What log-probabilities are multiplied by to be at the temperature of the run."""
    threads: Threads
    begun: dict[Key, list[tuple[View, Future[TopK]]]] = field(default_factory=dict)
    """What was asked of episodes that are over."""

    @property
    def identity(self) -> Identity | None:
        """The model by its name and by what it says of the tokens that it is known by; and what it is asked."""
        if not self.reads_plainly:
            return None
        scorer = self.scorer
        text = digest(
            "served", scorer.model, scorer.longest, scorer.k, list(scorer.probe), self.power, self.where, self.hint
        )
        return Identity(text, scorer.answer, ROUNDING)

    def begin(self, trajectory: Trajectory) -> None:
        """Asks, without waiting for the answer."""
        if self.hindsight and self.hindsight.needs_group:
            return
        with suppress(UnreadableError):  # which :meth:`annotate` tells
            [views] = self.views([trajectory])
            self.begun[trajectory.key] = self._asked(views)

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """The server's log-probabilities at the selected action tokens.

        Raises:
            TeacherError: A view is malformed, it can read none of the episodes, or the server failed for too long.
        """
        pairs = zip(trajectories, self.views(trajectories), strict=True)
        asked = [self.begun.pop(one.key) if one.key in self.begun else self._asked(views) for one, views in pairs]
        return [self._annotation(*pair) for pair in zip(trajectories, asked, strict=True)]

    def _asked(self, views: Sequence[View]) -> list[tuple[View, Future[TopK]]]:
        return [(v, self.threads.begin(self.scorer.score, v.tokens_T.tolist(), v.position_A.tolist())) for v in views]

    def _annotation(self, trajectory: Trajectory, asked: Sequence[tuple[View, Future[TopK]]]) -> Annotation:
        said = TopK.joined([answer.result() for _, answer in asked], max(self.scorer.k, 0))
        if self.power != 1.0:
            said = _tempered(said, self.power)
        block: Block = Sampled()
        if self.scorer.k:
            block = Sparse(said.ids_N_K, np.maximum(said.logprob_N_K, FLOOR), np.maximum(said.logtail_N, FLOOR))
        return annotated(self.name, trajectory, [view for view, _ in asked], block, said.taken_N, said.entropy_N)


def _tempered(said: TopK, power: float) -> TopK:
    """The distributions whose probabilities are proportional to those said, to a power; all of the vocabulary is there."""
    logprob_N_V = power * said.logprob_N_K.astype(np.float64)
    whole_N = np.log(np.exp(logprob_N_V).sum(1))
    logprob_N_V -= whole_N[:, None]
    taken_N = (power * said.taken_N - whole_N).astype(np.float32)
    return replace(said, logprob_N_K=logprob_N_V.astype(np.float32), taken_N=taken_N)
