"""A teacher behind a vLLM server: token ids go to it, log-probabilities come back.

With ``ids: student`` they are those of the student's ``top_k`` likeliest ids, as it is when its episodes are annotated, and with ``ids: union`` of
those of both: the supports ``top_k`` of ``student`` and ``union`` are exact then. Nothing is sent before the student has read the
episodes, one forward each. That takes a vLLM server on a GPU, see :mod:`agentopd.serving.chosen`; any other is refused when it is asked first.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd.errors import ConfigError, under
from agentopd.objective.floor import FLOOR
from agentopd.serving import WHOLE, Endpoint, Patience, Scorer, Threads, TopK
from agentopd.serving.scorer import ROUNDING
from agentopd.teachers.base import EVERYWHERE, Teacher, TeacherContext, nobody
from agentopd.teachers.chosen import Chooser
from agentopd.teachers.hints import Told, hint_of
from agentopd.teachers.identity import Identity, digest
from agentopd.teachers.traits import Examined, Few, Traits, TraitsBy
from agentopd.teachers.viewing import Viewing, annotated
from agentopd.teachers.views import UnreadableError, hinted_views, own_views
from agentopd.types import Annotation, Block, Ints, Key, Sampled, Sparse, Trajectory, View, Whose
from agentopd.where import Where

PROBE = 32
"""Tokens by which a server is known again, at most."""
SAMPLE = 'Two pears cost 17.50, so pay them: {"name": "pay", "arguments": {"to": "Zoë", "水": [1, 23]}} 🙂'
"""Text whose tokens must mean the same to student and server."""


def _examine(given: Examined) -> int | None:
    """How many tokens the model of a server reads, which is asked whether it is there."""
    asked = ("url", "model", "top_k", "ids", "timeout", "patience", "key_env")
    scorer = _scorer(given.name, given.ids, **{key: given.settings[key] for key in asked})
    if given.tokenizer is not None:
        _require_same_tokens(scorer, given.tokenizer)
    return _longest(scorer)


def _require_same_tokens(scorer: Scorer, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConfigError where the server tells that the student's token ids are other text to its model."""
    tokens = tokenizer.encode(SAMPLE, add_special_tokens=False)
    ours, theirs = str(tokenizer.decode(tokens)), scorer.read_as(tokens)
    if theirs is not None and "".join(ours.split()) != "".join(theirs.split()):  # spaces differ by settings alone
        raise ConfigError(
            f"url={scorer.endpoint.url}: its model {scorer.model!r} has another tokenizer than the student: the student's tokens of {ours!r} "
            f"are {scorer.endpoint.hidden(repr(theirs))[: len(repr(ours))]} to it; serve a model that shares the student's tokenizer, or let one "
            "of another family teach in this process (kind: cross_tokenizer) or in words (kind: openai)"
        )


def _idle(settings: Mapping[str, Any]) -> dict[str, str]:
    return {"max_tokens": "with ids=teacher the student reads nothing"} if settings["ids"] == "teacher" else {}


def _traits(settings: Mapping[str, Any]) -> Traits:
    k = settings["top_k"]
    few = None if k == WHOLE else Few(settings["ids"], k, "ids", "top_k")
    best = ("best_surprisal",) if k != 0 and settings["ids"] != "student" else ()
    told = ("coverage", *best)
    return Traits(
        hint=True,
        corrects=False,
        rewards=False,
        statistics=told,
        few=few,
        examine=_examine,
        idle=_idle,
        adjustable=("in_flight", "timeout", "patience", "key_env"),
    )


@TraitsBy(_traits)
def served(
    context: TeacherContext,
    *,
    url: str,
    model: str | None = None,
    top_k: Annotated[int, Field(ge=WHOLE)] = 64,
    ids: Whose = "teacher",
    temperature: Annotated[float, Field(gt=0.0)] = 1.0,
    hint: Told | None = None,
    where: Where = EVERYWHERE,
    in_flight: Annotated[int, Field(ge=1)] = 32,
    timeout: Annotated[float, Field(gt=0.0)] = 120.0,
    patience: Annotated[float, Field(ge=0.0)] = 300.0,
    key_env: str | None = None,
    max_tokens: Annotated[int, Field(ge=1)] = 16384,
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
        ids: Whose likeliest ids: the model's own, the student's or both; of chosen ones a server is asked for one more, the token taken.
        temperature: The temperature at which the server's log-probabilities are. vLLM scores prompts at 1 whatever it is told; another
            one comes of a model whose logits are scaled, for instance by ``--hf-overrides '{"logit_scale": 1.25}'`` (0.8) where the
            architecture has that. It must be the one at which student and teacher are compared, unless ``top_k`` is -1.
        hint: What its prompt says beside what the student sees, as for ``privileged``; nothing by default.
        where: The turns and tokens that it teaches; the others cost nothing.
        in_flight: Requests at once.
        timeout: Seconds until a request is given up and tried again.
        patience: Seconds over which a request is tried again, ever less often, while the server is away.
        key_env: The environment variable of the server's key.
        max_tokens: The largest number of tokens in one forward of the student, padding included, where ``ids`` asks it.

    Raises:
        ConfigError: The server does not serve the model or score chosen ids; its temperature is not the run's; or no student chooses.
    """
    with under(f"teachers.{context.name}"):
        _require_comparable(top_k, temperature, context.temperature)
        shown = None if hint is None else hint_of(hint, where.env)
        scorer = _scorer(context.name, len(context.chat.tokenizer), url, model, top_k, ids, timeout, patience, key_env)
        chooser = None if ids == "teacher" else Chooser(_student(context, ids), scorer.k, scorer.size, max_tokens)
    return ServedTeacher(
        name=context.name,
        where=where,
        hint=shown,
        longest=_longest(scorer),
        shown=own_views if shown is None else partial(hinted_views, chat=context.chat, hint=shown),
        scorer=scorer,
        power=temperature / context.temperature,
        threads=Threads(in_flight),
        chooser=chooser,
        vocabulary=context.vocabulary,
    )


def _require_comparable(top_k: int, temperature: float, wanted: float) -> None:
    """Raises ConfigError where what a server says at one temperature cannot be put to another."""
    if top_k != WHOLE and temperature != wanted:
        raise ConfigError(
            f"temperature={temperature:g}: the server's log-probabilities are at this temperature and student and teacher are compared "
            f"at {wanted:g}; set top_k: -1, which can be put to any, or rollout.temperature={temperature:g}, or serve the "
            f"model with --hf-overrides '{{\"logit_scale\": {1 / wanted:g}}}' and say temperature: {wanted:g}"
        )


def _student(context: TeacherContext, ids: Whose) -> PreTrainedModel:
    if context.student is nobody:
        raise ConfigError(f"ids={ids}: there is no student here to choose ids; set ids: teacher")
    return context.student()


def _scorer(
    name: str,
    known: int,
    url: str,
    model: str | None,
    top_k: int,
    ids: Whose,
    timeout: float,
    patience: float,
    key_env: str | None,
) -> Scorer:
    """The server, of which ``known`` ids may be asked.

    Raises:
        ConfigError: See :func:`served`; or ids are to be chosen and it is not said how many.
    """
    if ids != "teacher" and top_k < 1:
        raise ConfigError(
            f"top_k={top_k}: with ids: {ids} it is how many ids are chosen; give 1 or more, or set ids: teacher"
        )
    endpoint = Endpoint(f"teacher {name!r}", url, Patience(timeout, patience), key_env)
    # a server may break down where more ids are asked for than there are
    return Scorer.found(endpoint, model, min(top_k, known), range(min(PROBE, known)), ids, known)


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
    chooser: Chooser | None = None
    """Who says which ids the server is asked about; ``None`` where that is the server's model."""
    vocabulary: int | None = None
    """How many ids the student's head has, where that is known: the server's may be filled up to another size."""
    begun: dict[Key, list[tuple[View, Future[TopK]]]] = field(default_factory=dict)
    """What was asked of episodes that are over."""

    @property
    def identity(self) -> Identity | None:
        """The model by its name and by what it says of the tokens that it is known by; and what it is asked."""
        if not self.reads_plainly or self.chooser is not None:
            return None  # the student that chooses ids is no part of what it says
        scorer = self.scorer
        text = digest(
            "served", scorer.model, scorer.longest, scorer.k, list(scorer.probe), self.power, self.where, self.hint
        )
        return Identity(text, scorer.answer, ROUNDING)

    def begin(self, trajectory: Trajectory) -> None:
        """Asks, without waiting for the answer; not yet where others have a say in the question."""
        if self.chooser is not None or (self.hindsight and self.hindsight.needs_group):
            return
        with suppress(UnreadableError):  # which :meth:`annotate` tells
            [views] = self.views([trajectory])
            self.begun[trajectory.key] = self._asked(views)

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """The server's log-probabilities at the selected action tokens.

        Raises:
            TeacherError: A view is malformed, it can read none of the episodes, the server failed for too long, or is another model now.
        """
        of_each = self.views(trajectories)
        if self.chooser is None:
            pairs = zip(trajectories, of_each, strict=True)
            asked = [self.begun.pop(one.key) if one.key in self.begun else self._asked(views) for one, views in pairs]
        else:
            chosen = self.chooser.ids(trajectories, of_each)
            asked = [self._asked(views, ids) for views, ids in zip(of_each, chosen, strict=True)]
        said = [self._annotation(*pair) for pair in zip(trajectories, asked, strict=True)]
        if any(asked):
            self.scorer.confirm()  # a restart between two requests shows itself in none
        return said

    def state(self) -> dict[str, Any]:
        """What the server is known by, for a resumed run."""
        return {"answer": list(self.scorer.answer)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Holds the server against that.

        Raises:
            TeacherError: It is another model now.
        """
        if "answer" in state:  # not in checkpoints of runs that kept none
            self.scorer.expect(state["answer"])

    def _asked(
        self, views: Sequence[View], chosen: Sequence[Ints | None] | None = None
    ) -> list[tuple[View, Future[TopK]]]:
        """Each view, and what will be said of it; of the ids ``chosen`` for its tokens, where they are."""
        return [
            (view, self.threads.begin(self.scorer.score, view.tokens_T.tolist(), view.position_A.tolist(), ids_N_K))
            for view, ids_N_K in zip(views, chosen or [None] * len(views), strict=True)
        ]

    def _annotation(self, trajectory: Trajectory, asked: Sequence[tuple[View, Future[TopK]]]) -> Annotation:
        said = TopK.joined([answer.result() for _, answer in asked], self.scorer.width)
        if self.vocabulary is not None:
            said = said.within(self.vocabulary, self.scorer.k == WHOLE)
        if self.power != 1.0:
            said = said.tempered(self.power)
        block: Block = Sampled()
        if self.scorer.k:
            logprob_N_K, logtail_N = np.maximum(said.logprob_N_K, FLOOR), np.maximum(said.logtail_N, FLOOR)
            block = Sparse(said.ids_N_K, logprob_N_K, logtail_N, self.scorer.of)
        return annotated(self.name, trajectory, [view for view, _ in asked], block, said.taken_N, said.entropy_N)
