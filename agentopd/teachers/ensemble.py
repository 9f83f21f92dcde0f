"""A teacher that is several others: the mean of their distributions, and what their disagreement says."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from agentopd.errors import ConfigError, TeacherError, under
from agentopd.freezing import Thinned
from agentopd.objective.chunked import chunks, taken_logprob, tiles
from agentopd.objective.columns import ALEATORIC, ENSEMBLE, EPISTEMIC
from agentopd.objective.dense import Ensemble as Members
from agentopd.objective.head import Head, Projector, Scratch
from agentopd.settings.base import Seed
from agentopd.teachers.base import EVERYWHERE, Stateless, Teacher, TeacherContext, rowless, tokens_of
from agentopd.teachers.identity import Identity, digest
from agentopd.teachers.local import LocalTeacher
from agentopd.teachers.traits import Traits
from agentopd.types import Annotation, Bools, Dense, Floats, Mixture, Trajectory
from agentopd.where import Where

CHUNK_ROWS = 512
"""Rows of which a member's logits exist at once."""


def _idle(settings: Mapping[str, Any]) -> dict[str, str]:
    return dict.fromkeys(("dropout", "seed"), "nothing is drawn without draws") if settings["draws"] is None else {}


@Traits(corrects=False, rewards=False, members=True, statistics=("coverage", *ENSEMBLE), idle=_idle)
def ensemble(
    context: TeacherContext,
    *,
    members: tuple[str, ...],
    draws: Annotated[int, Field(ge=2)] | None = None,
    dropout: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1,
    seed: Seed = 0,
    where: Where = EVERYWHERE,
) -> Teacher:
    """The mean of what other teachers of this run think, on the tokens that all of them cover; or of draws of dropout of one.

    q = (1/E) sum_e q_e, at the common temperature. Its annotation has two statistics, in nats, whose sum is the entropy of q:
    ``aleatoric``, (1/E) sum_e H(q_e), what the members are unsure of each by itself; and ``epistemic``, H(q) minus that, what
    they disagree about: the mutual information between the token and the member (Depeweg et al., arXiv 1710.07283, section 3;
    Lakshminarayanan et al., arXiv 1612.01474, for ensembles of networks). It is between 0 and log E.

    Members are annotated first, each once, and need not be named by a term. They share the student's tokenizer; their sizes
    and heads may differ: several models, several adapters of one (each a ``local`` teacher whose ``model`` is the adapter's folder), or
    one behind several hints. With ``draws`` there is one member, read once a draw, each time by another network that dropout leaves of it
    (Gal and Ghahramani, arXiv 1506.02142), as :class:`~agentopd.freezing.Thinned` draws them.

    Args:
        context: What the run lends.
        members: The names of two or more teachers that are models in this process; of one where ``draws`` is given.
        draws: How often the one member is read.
        dropout: The share of the inputs of its linear layers that each draw leaves out.
        seed: Another one leaves out others.
        where: The turns and tokens that it teaches, of those that every member teaches.

    Raises:
        ConfigError: The members' vocabularies differ in size; or the one that is drawn of does not read as kind ``local`` does.
    """
    teachers = {name: context.other(name) for name in members}
    sources, drawn = tuple(teachers.values()), () if draws is None else (draws, dropout, seed)
    if draws is not None:
        [member] = teachers.values()
        teachers = {one.name: one for one in _drawn(f"teachers.{context.name}", member, draws, dropout, seed)}
    heads = {head: tensor for teacher in teachers.values() for head, tensor in teacher.heads.items()}
    sizes = {name: [len(head.weight_V_H) for head in teacher.heads.values()] for name, teacher in teachers.items()}
    if len({size for each in sizes.values() for size in each}) > 1:
        told = ", ".join(f"{name} has {each[0]}" for name, each in sizes.items())
        raise ConfigError(
            f"teachers.{context.name}.members: their vocabularies differ in size, so no mean is taken of their distributions: "
            f"{told} tokens; choose models of one vocabulary"
        )
    return Ensemble(
        name=context.name,
        where=where,
        heads=heads,
        members=teachers,
        temperature=context.temperature,
        sources=sources,
        drawn=drawn,
    )


def _drawn(key: str, member: Teacher, draws: int, dropout: float, seed: int) -> Iterator[Teacher]:
    """The networks that dropout leaves of ``member``, each as a teacher whose name tells the draw; they have one head."""
    if not isinstance(member, LocalTeacher):
        raise ConfigError(
            f"{key}.draws={draws}: {member.name!r} is no model that is read in this process as kind local is; choose another"
        )
    for draw in range(draws):
        name = f"{member.name}#{draw}"
        with under(key):
            thinned = cast(PreTrainedModel, Thinned(member.reads, dropout, f"{seed}/{draw}"))
        yield replace(member, name=name, reads=thinned, model=None, heads={name: member.heads[member.name]})


@dataclass(frozen=True, eq=False, kw_only=True)
class Ensemble(Stateless):
    """See :func:`ensemble`."""

    members: Mapping[str, Teacher]
    temperature: float
    sources: tuple[Teacher, ...]
    """The teachers of the run that it was made of: its members, or the one that they are draws of."""
    drawn: tuple[int | float, ...]
    """What decides the draws: how many, the share left out, the seed; empty without any."""

    @property
    def identity(self) -> Identity | None:
        """Those that it was made of, in order, and what was drawn of them; ``None`` where one of them has none."""
        found = [one for source in self.sources if (one := source.identity) is not None]
        if len(found) < len(self.sources):
            return None
        numbers = tuple(number for one in found for number in one.numbers)
        text = digest("ensemble", self.where, [one.text for one in found], *self.drawn)
        return Identity(text, numbers, max(one.tolerance for one in found))

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """The mixture at the tokens that all members cover, after they have been asked."""
        return self.combine(trajectories, {})

    def combine(self, trajectories: Sequence[Trajectory], said: Mapping[str, Sequence[Annotation]]) -> list[Annotation]:
        """The mixture of what the members said, who are asked where ``said`` does not tell.

        Raises:
            TeacherError: A member's annotation has no hidden states.
        """
        asked = [said.get(name) or member.annotate(trajectories) for name, member in self.members.items()]
        pairs = zip(trajectories, zip(*asked, strict=True), strict=True)
        return [
            mixed(self.name, trajectory, parts, self.heads, self.temperature, self._selected(trajectory))
            for trajectory, parts in pairs
        ]

    def _selected(self, trajectory: Trajectory) -> list[Bools]:
        return [tokens_of(self.where, trajectory, segment) for segment in trajectory.segments]


def mixed(
    name: str,
    trajectory: Trajectory,
    parts: Sequence[Annotation],
    heads: Mapping[str, Head],
    temperature: float,
    selected: Sequence[Bools],
) -> Annotation:
    """The annotation of the mean of the members' distributions.

    Args:
        name: What signs it.
        trajectory: What the members annotated.
        parts: One annotation a member, with dense blocks.
        heads: Those that the blocks name.
        temperature: Divides every member's logits.
        selected: The tokens that it may cover, one column a segment of the trajectory.

    Raises:
        TeacherError: A block is not dense.
    """
    nothing, turn_T = rowless(name, trajectory), _joined([segment.turn_T for segment in trajectory.segments])
    entries = [_entries(trajectory, part, turn_T, _joined(selected).astype(np.bool_)) for part in parts]
    place_N = np.flatnonzero(np.min(entries, axis=0) >= 0)
    if not len(place_N):
        return replace(nothing, statistics={ALEATORIC: nothing.entropy_N, EPISTEMIC: nothing.entropy_N})
    starts = _starts(trajectory)
    segment_N = np.searchsorted(starts, place_N, side="right") - 1
    dense = tuple(_picked(part, entry_T[place_N]) for part, entry_T in zip(parts, entries, strict=True))
    token_N = torch.from_numpy(_joined([segment.tokens_T for segment in trajectory.segments])[place_N])
    seen = {name: _column(one_N) for name, one_N in _statistics(dense, token_N, heads, temperature).items()}
    return replace(
        nothing,
        segment_N=segment_N.astype(np.int32),
        index_N=(place_N - starts[segment_N]).astype(np.int32),
        block=Mixture(dense),
        taken_logprob_N=seen["taken"],
        entropy_N=seen["entropy"],
        skip_S=~np.isin(np.arange(len(trajectory.turns)), turn_T[place_N]),
        statistics={name: seen[name] for name in ENSEMBLE},
    )


def _joined(columns: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """The columns of all segments of a trajectory, one behind the other."""
    return np.concatenate([np.zeros(0, np.int64), *columns])


def _starts(trajectory: Trajectory) -> NDArray[np.int64]:
    """Where each segment begins in such a column."""
    return np.cumsum([0, *(len(segment) for segment in trajectory.segments)])[:-1]


def _entries(
    trajectory: Trajectory, part: Annotation, turn_T: NDArray[np.int64], selected_T: Bools
) -> NDArray[np.int64]:
    """The entry of an annotation at each token of the joined segments; -1 where it says nothing, or may not.

    What it says of turns that it skips, or of segments of its own, does not count.
    """
    entry_T = np.full(len(turn_T), -1, np.int64)
    own = np.flatnonzero(part.segment_N < len(trajectory.segments))
    entry_T[_starts(trajectory)[part.segment_N[own]] + part.index_N[own]] = own
    taught_T = selected_T & np.isin(turn_T, np.flatnonzero(~part.skip_S))
    return np.where(taught_T, entry_T, -1)


def _picked(part: Annotation, entry_N: NDArray[np.int64]) -> Dense:
    """Some entries of a part's block; the block itself where that is all of them in order."""
    if not isinstance(part.block, Dense):
        raise TeacherError(
            f"teacher {part.teacher!r} gave a {type(part.block).__name__} block, and an ensemble reads hidden states; let its members "
            "annotate with dense blocks"
        )
    hidden_N_H = part.block.hidden_N_H
    whole = len(entry_N) == len(hidden_N_H) and bool((np.diff(entry_N) == 1).all())
    return part.block if whole else Dense(hidden_N_H[torch.from_numpy(entry_N)], part.block.head)


@torch.no_grad()
def _statistics(
    members: Sequence[Dense], token_N: Tensor, heads: Mapping[str, Head], temperature: float
) -> dict[str, Tensor]:
    """Of the mixture the log-probability of the ``taken`` tokens and the ``entropy``, and how far its members differ, [N] each."""
    token_N = token_N.to(members[0].hidden_N_H.device)
    chunk, found = Scratch(), dict[str, list[Tensor]]()
    projectors = [Projector(heads[one.head], one.hidden_N_H, chunk) for one in members]
    mean = Members(projectors, [1.0 / len(members)] * len(members), temperature)
    for rows in chunks(len(token_N), CHUNK_ROWS):
        tell = mean.open(rows)
        for tile in tiles(rows, projectors[0].head.weight_V_H.T):
            told = tell(tile)
            seen = {"taken": taken_logprob(told.logq_M_V, token_N[tile]), "entropy": told.entropy_M, **told.signals}
            for name, column_M in seen.items():
                found.setdefault(name, []).append(column_M)
    return {name: torch.cat(columns) for name, columns in found.items()}


def _column(values_N: Any) -> Floats:
    column: Floats = values_N.float().cpu().numpy()
    return column
