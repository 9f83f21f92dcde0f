"""A teacher with a tokenizer and a chat template of its own: what it thinks wherever both have read the same bytes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from agentopd.chat import Chat
from agentopd.chat.formats import CallFormat
from agentopd.chat.token_bytes import TokenBytes
from agentopd.errors import ConfigError, under
from agentopd.freezing import frozen
from agentopd.models import Dtype, FrozenModel, head_of, load_tokenizer, positions_of
from agentopd.quantization import Quantization
from agentopd.teachers.base import EVERYWHERE, Stateless, Teacher, TeacherContext, rowless, tokens_of
from agentopd.teachers.identity import Identity, digest, of_chat
from agentopd.teachers.local import LocalTeacher, Reading
from agentopd.teachers.rewriting import Aligner, Begins, Beside, Rewritten, Views, rewritten
from agentopd.teachers.traits import Traits
from agentopd.teachers.viewing import readable
from agentopd.teachers.views import UnreadableError
from agentopd.types import Aligned, Annotation, Bools, Dense, Floats, Matched, Span, Trajectory, Turn, View
from agentopd.where import Where

_log = logging.getLogger(__name__)

ALIGNED = "aligned"
"""The statistic of a row: the share of its turn's bytes that is aligned."""


@Traits(model=True, own_tokenizer=True, corrects=False, rewards=False, statistics=("coverage", ALIGNED))
def cross_tokenizer(
    context: TeacherContext,
    *,
    model: str,
    tokenizer: str | None = None,
    template_kwargs: dict[str, Any] = {},  # noqa: B006 - settings are never changed
    call_format: CallFormat | None = None,
    dtype: Dtype = "float32",
    attention: str = "sdpa",
    quantization: Quantization | None = None,
    offload: bool = False,
    where: Where = EVERYWHERE,
    max_tokens: Annotated[int, Field(ge=1)] = 16384,
    end_of_turn: bool = True,
    forms: bool = True,
) -> Teacher:
    """A frozen model with another vocabulary, which reads the episode as its own chat template writes it, tools included.

    Each turn of the student's is written as the teacher would: what was thought and said, and its calls in the teacher's format; a
    turn with a malformed call stands as it was written, and is not taught where formats differ. Tokens of both that cover the same
    bytes are aligned, and so is what each writes between these in a form of its own, as wrappers of calls. What is left is not taught,
    and counted: see ``alignment.py`` and, for what distributions over two vocabularies are compared by, ``objective/apart.py``.

    ``taken_logprob_N`` of a row is its part of the log-probability of its span under the teacher, in proportion to the student's own
    -log p when it acted (equally, where that is 0): so the parts sum to the span's, none is above 0, and where both find the span
    equally likely log q - log p is 0 on each row. ``entropy_N`` is that of the teacher where the span begins.

    Args:
        context: What the run lends.
        model: A hub id or a folder.
        tokenizer: Another place for its tokenizer and chat template; by default they lie with the model.
        template_kwargs: Settings that its chat template reads.
        call_format: How it writes calls; by default as its template does, or else in Hermes blocks.
        dtype: The type of its weights.
        attention: The attention implementation, by its name in transformers.
        quantization: ``nf4`` holds its linear layers in four bits, as the student's ``quantization`` does.
        offload: Whether the weights of its layers wait in the host's memory: each comes to the device for the moment in which it is read.
        where: The turns and tokens that it teaches; a span of which a token is left out is.
        max_tokens: The largest number of tokens in one forward, padding included.
        end_of_turn: Whether the ends of turns are taught too. GOLD skips them (TRL), and a student that acts then unlearns to stop.
        forms: Whether what both write in forms of their own is taught too: whether to call, and where a call ends.

    Raises:
        ConfigError: There is no such tokenizer, its tokens do not say which bytes they are, or the model knows fewer.
    """
    with under(f"teachers.{context.name}"):
        chat = Chat(own_tokenizer(model, tokenizer), template_kwargs, call_format)
        aligner = Aligner(
            context.chat, chat, TokenBytes(context.chat.tokenizer), TokenBytes(chat.tokenizer), end_of_turn, forms
        )
        loaded = context.load(
            FrozenModel(model=model, dtype=dtype, attention=attention, quantization=quantization, offload=offload)
        )
    return aligned_teacher(context, frozen(loaded), aligner, where, max_tokens, of_chat(chat))


def own_tokenizer(model: str, tokenizer: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer that lies with ``model``, or at ``tokenizer``.

    Raises:
        ConfigError: There is none; the setting that names the place is told.
    """
    try:
        return load_tokenizer(tokenizer or model)
    except ConfigError as error:
        if tokenizer is None or not str(error).startswith("model="):
            raise
        raise ConfigError(str(error).replace("model", "tokenizer", 1)) from error


def aligned_teacher(
    context: TeacherContext, loaded: Any, aligner: Aligner, where: Where, max_tokens: int, writes: str = ""
) -> "CrossTokenizer":
    """A teacher that is ``loaded``, which ``aligner.other`` writes for; ``writes`` is the digest of that chat.

    Raises:
        ConfigError: The model knows fewer tokens than its tokenizer makes.
    """
    head, ids = head_of(loaded), len(aligner.other.tokenizer)
    if len(head.weight_V_H) < ids:
        raise ConfigError(
            f"teacher {context.name!r}: its model knows {len(head.weight_V_H)} token ids and its tokenizer makes {ids}; give the model's own"
        )
    heads = {context.name: head}
    reader = LocalTeacher(
        name=context.name, reads=loaded, heads=heads, temperature=context.temperature, max_tokens=max_tokens
    )
    return CrossTokenizer(
        name=context.name,
        where=where,
        heads=heads,
        reader=reader,
        aligner=aligner,
        matched=aligner.matched(),
        longest=positions_of(loaded.config),
        writes=writes,
    )


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the spans of an episode lie: P of them, over N rows of the student's and R of the teacher's."""

    views: list[View]
    """With the teacher's rows, in order."""
    segment_N: NDArray[np.int32]
    index_N: NDArray[np.int32]
    share_N: Floats
    student_P_2: NDArray[np.int32]
    teacher_P_2: NDArray[np.int32]
    """Among the tokens of all turns as the teacher writes them."""
    first_P: NDArray[np.int64]
    """The first of the R rows of each span."""
    same_P: Bools
    next_P_2: NDArray[np.int32]


@dataclass(slots=True)
class _Counts:
    """What was aligned since this was last told."""

    size: int = 0
    aligned: int = 0
    rewritten: int = 0
    turns: int = 0
    untaught: int = 0
    told: bool = False
    """Whether the log has said it."""

    def shares(self) -> tuple[float, float]:
        """Of the bytes: that which both have, and that which both write in forms of their own."""
        return (self.aligned / self.size, self.rewritten / self.size) if self.size else (1.0, 0.0)

    def begin(self) -> None:
        """Forgets those before."""
        self.size = self.aligned = self.rewritten = self.turns = self.untaught = 0

    def add(self, beside: Beside) -> None:
        """One turn."""
        self.size += beside.size
        self.aligned += sum(pair.size for pair in beside.pairs if pair.same)
        self.rewritten += sum(pair.size for pair in beside.pairs if not pair.same)
        self.turns += 1
        self.untaught += not beside.pairs


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossTokenizer(Stateless):
    """See :func:`cross_tokenizer`. It has no ``model`` that could act: rollout would not know its tokens."""

    reader: LocalTeacher
    aligner: Aligner
    matched: Matched
    longest: int | None = None
    """The tokens of a view at most."""
    writes: str = ""
    """The digest of the chat that it reads by; empty where nobody said, so that nothing that it said is kept."""
    counts: _Counts = field(default_factory=_Counts)

    @property
    def identity(self) -> Identity | None:
        """Its weights, its chat and what it aligns; ``None`` for a class of one's own."""
        model = self.reader.identity
        if type(self) is not CrossTokenizer or model is None or not self.writes:
            return None
        aligned = self.aligner.end_of_turn, self.aligner.forms
        return Identity(digest("cross_tokenizer", model.text, self.writes, self.where, *aligned))

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """Spans at the selected action tokens, with hidden states where they begin.

        An episode that it cannot read is skipped, and the log says why; once it says how much of the actions is aligned, where that is
        not all.

        Raises:
            TeacherError: It can read none of the episodes, or the model gave NaN.
        """
        places = readable(trajectories, self._places, None)
        views = [view for one in places if one for view in one.views]
        readings = iter(self.reader.read(views))
        said = [
            self._annotation(trajectory, one, [next(readings) for _ in one.views])
            if one and one.views
            else rowless(self.name, trajectory)
            for trajectory, one in zip(trajectories, places, strict=True)
        ]
        self._tell()
        return said

    def metrics(self) -> Mapping[str, float]:
        """Since this was last called: the shares of the action bytes in spans, by their kind, and that of the turns that have none."""
        counts = self.counts
        if not counts.turns:
            return {}
        aligned, rewritten = counts.shares()
        told = {
            "aligned_bytes": aligned,
            "rewritten_bytes": rewritten,
            "unaligned_turns": counts.untaught / counts.turns,
        }
        counts.begin()
        return told

    def _tell(self) -> None:
        counts = self.counts
        aligned, rewritten = counts.shares()
        if aligned + rewritten < 1.0 and not counts.told:
            counts.told = True
            _log.warning(
                "teacher %r: of the %d bytes that were written %.1f%% stand in the teacher's text too and %.1f%% it writes in a form of its own; "
                "the rest has no counterpart and is not taught, and so is nothing of %d of %d turns",
                self.name, counts.size, 100 * aligned, 100 * rewritten, counts.untaught, counts.turns,
            )  # fmt: skip

    def _places(self, trajectory: Trajectory) -> _Places | None:
        """The spans of an episode; ``None`` where none is selected.

        Raises:
            UnreadableError: A view is longer than the model reads.
        """
        selected = [tokens_of(self.where, trajectory, segment) for segment in trajectory.segments]
        if not any(one_T.any() for one_T in selected):
            return None
        again = rewritten(trajectory, self.aligner.other, self.aligner.student)
        rows, written, read = _Rows(), 0, list[Beside]()
        for turn, theirs in zip(trajectory.turns, again.turns, strict=True):
            wanted_T = selected[turn.segment][turn.start : turn.stop]
            if wanted_T.any():
                beside = self.aligner.beside(trajectory, turn, theirs)
                read.append(beside)
                rows.add(turn, theirs, written, beside, wanted_T)
            written += len(theirs.tokens)
        places = self._within(trajectory, rows.places(again))
        for beside in read:  # not of an episode that is skipped
            self.counts.add(beside)
        return places

    def _within(self, trajectory: Trajectory, places: _Places) -> _Places:
        length = max((len(view.tokens_T) for view in places.views), default=0)
        if self.longest is not None and length > self.longest:
            raise UnreadableError(
                f"teacher {self.name!r}, trajectory {trajectory.key}: in its tokens it has {length}, and its model reads at most "
                f"{self.longest}; lower rollout.max_length, or choose a model with more positions"
            )
        return places

    def _annotation(self, trajectory: Trajectory, places: _Places, readings: Sequence[Reading]) -> Annotation:
        taken_R = torch.cat([reading.taken_logprob_N for reading in readings]).double().cpu().numpy()
        entropy_R = torch.cat([reading.entropy_N for reading in readings]).float().cpu().numpy()
        hidden_R_H = torch.cat([reading.hidden_N_H for reading in readings])
        token_R = np.concatenate([view.tokens_T[view.position_A] for view in places.views])
        later_R = taken_R.copy()
        later_R[places.first_P] = 0.0
        total_P, rest_P = (np.add.reduceat(one_R, places.first_P) for one_R in (taken_R, later_R))
        size_P = np.diff(places.student_P_2, axis=1)[:, 0]
        acted_N = [trajectory.segments[s].logprob_T[i] for s, i in zip(places.segment_N, places.index_N, strict=True)]
        span = Span(places.student_P_2, places.teacher_P_2, total_P.astype(np.float32))
        dense = Dense(hidden_R_H[torch.from_numpy(places.first_P).to(hidden_R_H.device)], self.name)
        taught = {trajectory.segments[s].turn_T[i] for s, i in zip(places.segment_N, places.index_N, strict=True)}
        return replace(
            rowless(self.name, trajectory, skip_S=~np.isin(np.arange(len(trajectory.turns)), list(taught))),
            segment_N=places.segment_N,
            index_N=places.index_N,
            block=Aligned(
                span,
                dense,
                token_R[places.first_P],
                rest_P.astype(np.float32),
                places.same_P,
                places.next_P_2,
                self.matched,
            ),
            taken_logprob_N=shared_out(total_P, size_P, np.array(acted_N, np.float64)),
            entropy_N=np.repeat(entropy_R[places.first_P], size_P),
            statistics={ALIGNED: places.share_N},
        )


def shared_out(total_P: NDArray[np.float64], size_P: NDArray[Any], logprob_N: NDArray[np.float64]) -> Floats:
    """The log-probabilities of spans on their rows, [N]: in proportion to the student's own, equally where that is 0.

    Args:
        total_P: Of each span.
        size_P: How many rows each has.
        logprob_N: The student's, on the rows of all spans in order.
    """
    starts_P = np.cumsum(size_P) - size_P
    own_P = np.add.reduceat(logprob_N, starts_P)
    equal_N = 1.0 / np.repeat(size_P, size_P)
    own_N = np.repeat(own_P, size_P)
    share_N = np.where(own_N < 0, logprob_N / np.where(own_N < 0, own_N, 1.0), equal_N)
    return np.asarray(np.repeat(total_P, size_P) * share_N, np.float32)


@dataclass(slots=True)
class _Rows:
    """Collects the spans of an episode, turn by turn."""

    segment: list[int] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    ours: list[tuple[int, int]] = field(default_factory=list)
    theirs: list[tuple[int, int]] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    coming: list[Begins] = field(default_factory=list)
    position: dict[int, list[int]] = field(default_factory=dict)
    """By view, where the teacher's rows stand."""
    count: int = 0

    def add(self, turn: Turn, again: Rewritten, written: int, beside: Beside, wanted_T: Bools) -> None:
        """The spans of a turn of which all tokens are wanted; as the teacher writes it, it stands behind ``written`` tokens of turns."""
        for pair, coming in zip(beside.pairs, beside.coming, strict=True):
            if not wanted_T[slice(*pair.ours)].all():
                continue
            size = pair.ours[1] - pair.ours[0]
            self.ours.append((len(self.index), len(self.index) + size))
            self.segment += [turn.segment] * size
            self.index += range(turn.start + pair.ours[0], turn.start + pair.ours[1])
            self.share += [beside.share] * size
            self.theirs.append((written + pair.theirs[0], written + pair.theirs[1]))
            self.first.append(self.count)
            self.same.append(pair.same)
            self.coming.append(coming)
            positions = range(again.start + pair.theirs[0], again.start + pair.theirs[1])
            self.position.setdefault(again.view, []).extend(positions)
            self.count += pair.theirs[1] - pair.theirs[0]

    def places(self, again: Views) -> _Places:
        """All of them; of each view what stands up to its last row."""
        views = [_view(again.tokens[view], position) for view, position in sorted(self.position.items())]
        return _Places(
            views,
            np.array(self.segment, np.int32),
            np.array(self.index, np.int32),
            np.array(self.share, np.float32),
            np.array(self.ours, np.int32).reshape(-1, 2),
            np.array(self.theirs, np.int32).reshape(-1, 2),
            np.array(self.first, np.int64),
            np.array(self.same, np.bool_),
            np.array(self.coming, np.int32).reshape(-1, 2),
        )


def _view(tokens: Sequence[int], position: Sequence[int]) -> View:
    nowhere = np.zeros(len(position), np.int32)
    return View(np.array(tokens[: position[-1] + 1], np.int32), np.array(position, np.int32), nowhere, nowhere)
