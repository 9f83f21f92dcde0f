"""A teacher that is a model in this process: its distribution at every token that the student produced."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from transformers import PreTrainedModel

from agentopd.chat import Hint
from agentopd.errors import ConfigError, TeacherError, under
from agentopd.forward import hidden_states
from agentopd.freezing import Borrowed, frozen
from agentopd.models import Dtype, FrozenModel, NewModel, head_of, positions_of
from agentopd.objective.chunked import statistics
from agentopd.packing import batches, padded
from agentopd.quantization import Quantization
from agentopd.teachers.base import EVERYWHERE, Teacher, TeacherContext
from agentopd.teachers.identity import Identity, digest, of_model
from agentopd.teachers.traits import Traits
from agentopd.teachers.viewing import Viewing, annotated
from agentopd.teachers.views import hinted_views, own_views
from agentopd.types import Annotation, Dense, Floats, Trajectory, View
from agentopd.where import Where

_log = logging.getLogger(__name__)

CHUNK_ROWS = 512
"""Rows whose logits exist at once."""


@Traits(model=True, corrects=False, rewards=False, statistics=("coverage",))
def local(
    context: TeacherContext,
    *,
    model: str | None = None,
    new: NewModel | None = None,
    dtype: Dtype = "float32",
    attention: str = "sdpa",
    quantization: Quantization | None = None,
    offload: bool = False,
    where: Where = EVERYWHERE,
    max_tokens: Annotated[int, Field(ge=1)] = 16384,
) -> Teacher:
    """A frozen model that reads the student's tokens, one forward a view, and keeps its hidden states at the action rows.

    Args:
        context: What the run lends.
        model: A hub id or a folder. It must share the student's tokenizer.
        new: A model from random weights instead; exactly one of the two.
        dtype: The type of its weights.
        attention: The attention implementation, by its name in transformers.
        quantization: ``nf4`` holds its linear layers in four bits, as the student's ``quantization`` does.
        offload: Whether the weights of its layers wait in the host's memory: each comes to the device for the moment in which it is read.
        where: The turns and tokens that it teaches; the others cost nothing.
        max_tokens: The largest number of tokens in one forward, padding included. A longer view is read alone.

    Raises:
        ConfigError: The model's vocabulary is smaller than the tokenizer's.
    """
    with under(f"teachers.{context.name}"):
        loaded = context.load(
            FrozenModel(
                model=model, new=new, dtype=dtype, attention=attention, quantization=quantization, offload=offload
            )
        )
    return reader(context, frozen(loaded), where, max_tokens)


def reader(
    context: TeacherContext,
    loaded: PreTrainedModel,
    where: Where,
    max_tokens: int,
    hint: Hint | None = None,
    make: Callable[..., "LocalTeacher"] | None = None,
) -> "LocalTeacher":
    """A teacher that is ``loaded``, after its vocabulary has been looked at; ``hint``, where there is one, is shown in its views.

    ``make`` makes it, by default :class:`LocalTeacher`.

    Raises:
        ConfigError: The vocabulary is smaller than the tokenizer's.
    """
    head = head_of(loaded)
    size, ids = head.weight_V_H.shape[0], len(context.chat.tokenizer)
    if size < ids:
        raise ConfigError(
            f"teacher {context.name!r}: its model knows {size} token ids and the student's tokenizer makes {ids}; choose a "
            "model that shares the student's tokenizer"
        )
    return (make or LocalTeacher)(
        name=context.name,
        where=where,
        model=None if hint is not None and hint.hindsight else loaded,
        reads=loaded,
        heads={context.name: head if context.vocabulary is None else head.fitted(context.vocabulary)},
        temperature=context.temperature,
        max_tokens=max_tokens,
        longest=positions_of(loaded.config),
        ids=_ids_of(loaded),
        shown=own_views if hint is None else partial(hinted_views, chat=context.chat, hint=hint),
        hint=hint,
    )


def _ids_of(model: PreTrainedModel) -> int:
    """How many token ids it can read."""
    embeddings: Any = model.get_input_embeddings()
    return len(embeddings.weight)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model thinks at the N rows that predict a view's action tokens; in nats, at the common temperature."""

    view: View
    hidden_N_H: torch.Tensor
    taken_logprob_N: torch.Tensor
    entropy_N: torch.Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalTeacher(Viewing):
    """See :func:`local`. It acts too, as its ``model``, unless its hint names what no actor can know."""

    reads: PreTrainedModel
    """What reads; it is ``model``, which acts, too, unless there is none."""
    temperature: float
    """That of the rollout, by which logits are divided."""
    max_tokens: int

    @cached_property
    def _weights(self) -> str | None:
        """Read once: they are frozen."""
        return of_model(self.reads)

    @property
    def identity(self) -> Identity | None:
        """Its weights, and what it reads; ``None`` for a class of one's own, which may read and say anything."""
        if type(self) is not LocalTeacher or not self.reads_plainly or self._weights is None:
            return None
        return Identity(digest("local", self._weights, self.where, self.hint))

    @property
    def at_once(self) -> bool:
        """Where its weights are its own, and it is shown nothing of other episodes."""
        own = type(self) is LocalTeacher and not isinstance(self.reads, Borrowed)
        return own and (self.hint is None or not self.hint.hindsight)

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """The model's hidden states at the selected action tokens, with the log-probabilities of those tokens.

        An episode that it cannot read is skipped, and the log says why.

        Raises:
            TeacherError: A view is malformed, it can read none of the episodes, or the model gave NaN.
        """
        of_each = self.views(trajectories)
        owners = [b for b, views in enumerate(of_each) for _ in views]
        views = [view for views in of_each for view in views]
        readings: list[list[Reading]] = [[] for _ in trajectories]
        for owner, reading in zip(owners, self.read(views), strict=True):
            readings[owner].append(reading)
        return [self._annotation(*pair) for pair in zip(trajectories, readings, strict=True)]

    def read(self, views: Sequence[View]) -> list[Reading]:
        """One forward a view, in batches by length; the readings come in the order of ``views``.

        Raises:
            TeacherError: The model gave NaN.
        """
        readings: dict[int, Reading] = {}
        for batch in batches([len(view.tokens_T) for view in views], self.max_tokens):
            readings.update(zip(batch, self._forward([views[i] for i in batch]), strict=True))
        return [readings[i] for i in range(len(views))]

    @torch.no_grad()
    def _forward(self, views: Sequence[View]) -> list[Reading]:
        """Reads one batch."""
        counts = [len(view.position_A) for view in views]
        sample_N = np.repeat(np.arange(len(views)), counts)
        position_N = np.concatenate([view.position_A for view in views]).astype(np.int64)
        tokens_B_T = padded([view.tokens_T for view in views]).to(self.reads.device)
        hidden_N_H = hidden_states(self.reads, tokens_B_T)[sample_N, position_N - 1]
        token_N = tokens_B_T[sample_N, position_N]
        logprob_N, entropy_N = statistics(hidden_N_H, self.heads[self.name], token_N, self.temperature, CHUNK_ROWS)
        if logprob_N.isnan().any():
            raise TeacherError(f"teacher {self.name!r}: its model gave NaN; try dtype: float32")
        columns = (torch.split(column, counts) for column in (hidden_N_H, logprob_N, entropy_N))
        return [Reading(*parts) for parts in zip(views, *columns, strict=True)]

    def _annotation(self, trajectory: Trajectory, readings: Sequence[Reading]) -> Annotation:
        """Joins the readings of one trajectory's segments."""
        weight_V_H = self.heads[self.name].weight_V_H
        hidden_N_H = torch.cat([weight_V_H.new_zeros(0, weight_V_H.shape[1]), *(r.hidden_N_H for r in readings)])
        return annotated(
            self.name,
            trajectory,
            [reading.view for reading in readings],
            Dense(hidden_N_H, self.name),
            _column([reading.taken_logprob_N for reading in readings]),
            _column([reading.entropy_N for reading in readings]),
        )


def _column(parts: Sequence[torch.Tensor]) -> Floats:
    """The parts, one behind the other, on the CPU in float32."""
    return np.concatenate([np.zeros(0, dtype=np.float32), *(part.float().cpu().numpy() for part in parts)])
