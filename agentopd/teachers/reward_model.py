"""A teacher that is a classifier of conversations: a reward model, or a process reward model, which scores each turn as it reads."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from agentopd.chat import Chat
from agentopd.chat.conversation import thought_of
from agentopd.errors import ConfigError, TeacherError, under
from agentopd.freezing import frozen
from agentopd.models import Dtype, ModelConfig, load_classifier, load_tokenizer, positions_of
from agentopd.objective.columns import Reals
from agentopd.packing import batches
from agentopd.teachers.base import EVERYWHERE, Teacher, TeacherContext
from agentopd.teachers.grouping import Normalised, Score
from agentopd.teachers.identity import Identity, digest, of_chat, of_model
from agentopd.teachers.rewards import Rewarding
from agentopd.teachers.traits import Examined, Traits
from agentopd.tooling.action import parse_action
from agentopd.types import Bools, Message, Trajectory, Turn
from agentopd.where import Where

_log = logging.getLogger(__name__)

PROBE = 8
"""Tokens by which it is found out whether a model looks ahead."""
Classifies: TypeAlias = Literal["sequences", "tokens"]
Activation: TypeAlias = Literal["none", "sigmoid", "softmax"]


def _examine(given: Examined) -> None:
    """Looks at the model and its tokenizer, no weights read.

    Raises:
        ConfigError: They cannot be loaded or do not go together, or have no such label, or no chat template.
    """
    settings = given.settings
    config = ModelConfig(**{name: settings[name] for name in ("model", "dtype", "attention")})
    classifier = _classifier(config, settings["classifies"], weightless=True)
    _label(classifier, settings["label"], settings["activation"], settings["model"])
    _chat_of(classifier, settings["model"])


@Traits(corrects=False, distributes=False, statistics=(), metrics=("skipped",), examine=_examine)
def reward_model(
    context: TeacherContext,
    *,
    model: str,
    of: Literal["episode", "turn"] = "episode",
    classifies: Classifies = "sequences",
    label: Annotated[int, Field(ge=0)] | None = None,
    activation: Activation = "none",
    dtype: Dtype = "float32",
    attention: str = "sdpa",
    where: Where = EVERYWHERE,
    scale: float = 1.0,
    normalised: Normalised = "none",
    max_tokens: Annotated[int, Field(ge=1)] = 16384,
) -> Teacher:
    """Scores conversations by a classifier of transformers', which reads them by its own tokenizer and chat template, tools included.

    It reads the messages, each action as its template writes it, up to and including an action, of which it reads nothing that
    came later; no thinking is among them. One that is longer than its context is skipped, never cut.

    Args:
        context: What the run lends.
        model: A hub id or folder of a classifier with its tokenizer.
        of: ``episode``: one score, of the conversation up to the last action, on the last turn that ``where`` selects. ``turn``: one score
            for each selected turn, of the conversation up to it.
        classifies: ``sequences``: it gives logits for a conversation, so each turn takes a reading of its own. ``tokens``: it gives
            logits at each token, as process reward models do, and is read at the last token of each action; one reading gives
            those of all turns, unless its template rewrites earlier ones, or what comes later changes its logits, as it does an encoder's.
        label: Which of its labels the score is, from 0; needed where it has several.
        activation: What the score is of the label's logit: itself, its ``sigmoid``, or its probability among all labels, ``softmax``.
        dtype: The type of its weights.
        attention: The attention implementation, by its name in transformers.
        where: The turns it rewards; the others it skips.
        scale: What every reward is multiplied by.
        normalised: ``group``: each less the mean of its group, over the deviation; see :func:`~agentopd.teachers.grouping.normalised`.
        max_tokens: The largest number of tokens in one forward, padding included. A longer conversation is read alone.

    Raises:
        ConfigError: The model or its tokenizer cannot be loaded or do not go together, or there is no such label, or no chat template.
    """
    with under(f"teachers.{context.name}"):
        loaded = _classifier(ModelConfig(model=model, dtype=dtype, attention=attention), classifies)
        chat, which = _chat_of(loaded, model), _label(loaded, label, activation, model)
    nn.Module.to(loaded, context.device)
    classifier = frozen(loaded)
    return RewardModel(
        name=context.name,
        where=where,
        scale=scale,
        normalised=normalised,
        skips_unsaid=True,
        classifier=classifier,
        chat=chat,
        of=of,
        classifies=classifies,
        looks_ahead=classifies == "tokens" and looks_ahead(classifier),
        label=which,
        activation=activation,
        max_tokens=max_tokens,
    )


def _classifier(config: ModelConfig, classifies: Classifies, weightless: bool = False) -> PreTrainedModel:
    """What :func:`load_classifier` gives, where it was trained as such a one.

    Raises:
        ConfigError: It cannot be loaded, or classifies tokens where sequences are asked for, whose head would lose its bias.
    """
    loaded = load_classifier(config, classifies, weightless)
    kind = next((name for name in loaded.config.architectures or () if name.endswith("ForTokenClassification")), None)
    if kind and classifies == "sequences":
        raise ConfigError(
            f"model={config.model!r} was trained to classify tokens ({kind}), and is asked about sequences; set classifies: tokens"
        )
    return loaded


def _chat_of(classifier: PreTrainedModel, model: str) -> Chat:
    """How the model reads conversations.

    Raises:
        ConfigError: There is no tokenizer or no chat template, or it makes ids that the model does not know.
    """
    try:
        chat = Chat(load_tokenizer(model))
    except ConfigError as error:
        if str(error).startswith("model="):
            raise
        raise ConfigError(f"model={model!r}: {error}") from error
    embeddings: Any = classifier.get_input_embeddings()
    known, ids = len(embeddings.weight), len(chat.tokenizer)
    if known < ids:
        raise ConfigError(
            f"model={model!r}: it knows {known} token ids, and the tokenizer beside it makes {ids}; put the classifier's own tokenizer there"
        )
    return chat


def _label(classifier: PreTrainedModel, label: int | None, activation: Activation, model: str) -> int:
    """The label that is the score.

    Raises:
        ConfigError: There is none of that number, or several and none is chosen; or its probability is always 1.
    """
    names: Mapping[Any, str] = classifier.config.id2label or {}
    listed = ", ".join(f"{i} ({names[i]})" for i in sorted(names))
    if label is None and len(names) > 1:
        raise ConfigError(f"label=null: the classifier {model!r} has several labels; give one of {listed}")
    if (label or 0) not in names:
        raise ConfigError(f"label={label}: the classifier {model!r} has no such label; give one of {listed}")
    if activation == "softmax" and len(names) == 1:
        raise ConfigError(
            f"activation=softmax: the classifier {model!r} has one label alone, {listed}, whose probability is always 1; take sigmoid, or none"
        )
    return label or 0


@torch.no_grad()
def looks_ahead(classifier: PreTrainedModel) -> bool:
    """Whether what comes later changes its logits, as an encoder's: one reading would tell of a turn how it went on."""
    embeddings: Any = classifier.get_input_embeddings()
    ids_T = torch.arange(len(embeddings.weight), device=classifier.device)[-PROBE:]
    other_T = torch.cat([ids_T[:-1], ids_T[:1]])
    logits_2_T_L = classifier(input_ids=torch.stack([ids_T, other_T])).logits[:, :-1]
    return not torch.equal(*logits_2_T_L)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A conversation as the classifier reads it, and where which turns are scored."""

    tokens_T: list[int]
    turns: list[int]
    ends: list[int]
    """The position of each one's last token."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RewardModel(Rewarding):
    """See :func:`reward_model`."""

    classifier: PreTrainedModel
    chat: Chat
    of: Literal["episode", "turn"]
    classifies: Classifies
    looks_ahead: bool
    """Whether turns are read one by one although it classifies tokens; see :func:`looks_ahead`."""
    label: int
    activation: Activation
    max_tokens: int
    skipped: list[int] = field(default_factory=list)
    """How many tokens each conversation had that was too long, since :meth:`metrics` was last asked."""

    @property
    def identity(self) -> Identity | None:
        """Its weights, how it reads, and what is made of its scores; ``None`` where that depends on the group."""
        if self.normalised != "none":
            return None
        made = [self.of, self.classifies, self.label, self.activation, self.scale, self.skips_unsaid, self.longest]
        return Identity(digest("reward_model", of_model(self.classifier), of_chat(self.chat), self.where, made))

    @property
    def longest(self) -> int:
        """The tokens that it reads at most."""
        limits = (positions_of(self.classifier.config), int(self.chat.tokenizer.model_max_length))
        return min(limit for limit in limits if limit is not None)

    def metrics(self) -> dict[str, float]:
        """How many conversations were too long to be scored, since this was last asked."""
        count = len(self.skipped)
        self.skipped.clear()
        return {"skipped": float(count)}

    def scores(self, trajectories: Sequence[Trajectory], selected: Sequence[Bools]) -> Sequence[Score]:
        """The scores of the classifier.

        Raises:
            TeacherError: It gave NaN; or a trajectory lacks its opening.
            ConfigError: Its chat template refuses a conversation.
        """
        columns = [np.full(len(trajectory.turns), np.nan) for trajectory in trajectories]
        pairs = zip(trajectories, selected, strict=True)
        owned = [(b, one) for b, pair in enumerate(pairs) for one in self._readings(*pair)]
        for (b, one), found in zip(owned, self._read([one for _, one in owned]), strict=True):
            columns[b][one.turns] = found
        if self.of == "turn":
            return columns
        return [float(column[-1]) if len(column) else np.nan for column in columns]

    def _readings(self, trajectory: Trajectory, selected_S: Bools) -> Iterator[_Reading]:
        """What is read of a trajectory; the log says what is too long."""
        wanted = np.flatnonzero(selected_S).tolist()
        if self.of == "episode":
            wanted = [len(trajectory.turns) - 1] if wanted else []
        prefixes = [(turn, self._up_to(trajectory, turn)) for turn in wanted]
        short = [(turn, prefix) for turn, prefix in prefixes if len(prefix) <= self.longest]
        long = [len(prefix) for _, prefix in prefixes if len(prefix) > self.longest]
        self.skipped.extend(long)
        if long:
            _log.warning(
                "teacher %r, trajectory %s: a conversation has %d tokens, and its model reads at most %d; the turn is skipped",
                self.name, trajectory.key, max(long), self.longest,
            )  # fmt: skip
        if self.classifies == "sequences" or self.looks_ahead:
            yield from (_Reading(prefix, [turn], [len(prefix) - 1]) for turn, prefix in short)
        else:
            yield from _joined(short)

    def _up_to(self, trajectory: Trajectory, turn: int) -> list[int]:
        """The conversation up to and including an action."""
        if not trajectory.opening:
            raise TeacherError(
                f"teacher {self.name!r}, trajectory {trajectory.key}: it has no opening, so its model would read answers to nothing; give the "
                "trajectory the messages that came before its first action"
            )
        messages: list[Message] = list(trajectory.opening)
        for earlier in trajectory.turns[:turn]:
            messages += [self._said(earlier), *earlier.observations]
        messages.append(self._said(trajectory.turns[turn]))
        return self.chat.whole(messages, trajectory.tools)

    def _said(self, turn: Turn) -> Message:
        """An action, as it stands behind its thinking where a call is malformed: its canonical text may only tell what is wrong."""
        parsed = parse_action(turn.action)
        if not parsed.problems:
            return self.chat.message(turn.action)
        return {"role": "assistant", "content": turn.text.removeprefix(thought_of(turn, parsed))}

    def _read(self, readings: Sequence[_Reading]) -> list[Reals]:
        """The scores of each reading."""
        alone = self.classifies == "sequences" and self._filler is None  # it could not tell where padding begins
        found: dict[int, Reals] = {}
        for batch in batches([len(one.tokens_T) for one in readings], self.max_tokens):
            for part in [[i] for i in batch] if alone else [batch]:
                found.update(zip(part, self._forward([readings[i] for i in part]), strict=True))
        return [found[i] for i in range(len(readings))]

    @property
    def _filler(self) -> int | None:
        """The id by which it knows padding."""
        filler: int | None = self.classifier.config.get_text_config().pad_token_id
        return filler

    @torch.no_grad()
    def _forward(self, readings: Sequence[_Reading]) -> list[Reals]:
        lengths = [len(one.tokens_T) for one in readings]
        ids_B_T = np.full((len(readings), max(lengths)), self._filler or 0, np.int64)
        for row_T, one in zip(ids_B_T, readings, strict=True):
            row_T[: len(one.tokens_T)] = one.tokens_T
        mask_B_T = np.arange(max(lengths)) < np.array(lengths)[:, None]
        device = self.classifier.device
        output = self.classifier(
            input_ids=torch.from_numpy(ids_B_T).to(device),
            attention_mask=torch.from_numpy(mask_B_T.astype(np.int64)).to(device),
        )
        logits: Tensor = output.logits.double().cpu()
        if self.classifies == "sequences":
            return [self._activated(logits_L[None]) for logits_L in logits]
        return [self._activated(logits_T_L[one.ends]) for logits_T_L, one in zip(logits, readings, strict=True)]

    def _activated(self, logits_N_L: Tensor) -> Reals:
        if self.activation == "softmax":
            logits_N_L = logits_N_L.softmax(-1)
        score_N = logits_N_L[:, self.label]
        if self.activation == "sigmoid":
            score_N = score_N.sigmoid()
        if not score_N.isfinite().all():
            raise TeacherError(f"teacher {self.name!r}: its model gave NaN; try dtype: float32")
        scores: Reals = score_N.numpy()
        return scores


def _joined(prefixes: Sequence[tuple[int, list[int]]]) -> Iterator[_Reading]:
    """Readings of conversations that continue each other, as long as each does."""
    last: _Reading | None = None
    for turn, prefix in prefixes:
        if last is not None and prefix[: len(last.tokens_T)] == last.tokens_T:
            last = _Reading(prefix, [*last.turns, turn], [*last.ends, len(prefix) - 1])
            continue
        if last is not None:
            yield last
        last = _Reading(prefix, [turn], [len(prefix) - 1])
    if last is not None:
        yield last
