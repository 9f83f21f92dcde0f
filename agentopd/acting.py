"""Who acts at each turn of an episode, where that is not one actor alone: one class a kind, its fields the settings.

An episode has an actor that it is assigned to; a kind says when, and how, somebody else acts in it. One's own kind is a subclass of
:class:`Acting` whose ``who`` depends on nothing but its settings and the moment: the same seed then gives the same episode.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from agentopd.settings.signature import Registry
from agentopd.tooling.action import parse_action
from agentopd.types import EXPERT, RECORDED, ToolCall, Turn

ROUNDING = 1e-9
"""What a schedule's value may lack of a whole number of turns and still count as it."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known when somebody must act."""

    turn: int
    """Counted from 0."""
    uniform: float
    """Of this turn, in [0, 1), from the episode's seed."""
    shown_turns: int = 0
    """The length of the episode that is followed: the expert's own, where it was played first, or the recorded one."""
    mended: int | None = None
    """The turn that was taken over, once one was."""


@dataclass(frozen=True, slots=True)
class Blended:
    """Each token is drawn from (1 - alpha) p + alpha q."""

    alpha: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """Each token is drawn from p; where it is not among the ``k`` most probable of q, it gives way to one drawn from q."""

    k: int


Mixing: TypeAlias = Blended | Accepted
"""How two models write one turn: p of the actor, q of the guide."""


@dataclass(frozen=True, kw_only=True)
class Acting:
    """Nobody but the actor that the episode is assigned to."""

    @property
    def others(self) -> tuple[str, ...]:
        """Who else may act: ``expert``, or teachers that are models."""
        return ()

    @property
    def needs_expert(self) -> bool:
        """Whether the environment must have an expert."""
        return EXPERT in self.others

    @property
    def asks_expert(self) -> bool:
        """Whether an expert, where there is one, is asked at every turn."""
        return self.needs_expert

    @property
    def foresees(self) -> bool:
        """Whether the expert first plays the task by itself, in an environment of its own."""
        return False

    @property
    def mixing(self) -> Mixing | None:
        """How the first of ``others`` takes part in every token, where it does."""
        return None

    def who(self, moment: Moment) -> str | None:
        """Which of ``others`` acts; None: the actor that the episode is assigned to."""
        return None

    def mends(self, turn: Turn) -> bool:
        """Whether this turn of the actor is taken back and acted again; asked until one is."""
        return False

    @property
    def sifts(self) -> bool:
        """Whether what the actor did stays or goes by what it is, which no behaviour log-probability tells."""
        return isinstance(self.mixing, Accepted) or type(self).mends is not Acting.mends


WHOLE = Acting()


@dataclass(frozen=True, kw_only=True)
class Beside(Acting):
    """A base for kinds in which one other acts too."""

    by: str = "teacher"
    """Who: ``expert``, or a teacher that is a model."""

    @property
    def others(self) -> tuple[str, ...]:
        """Whoever ``by`` names."""
        return (self.by,)


@dataclass(frozen=True, kw_only=True)
class Prefix(Beside):
    """The first turns are acted by ``by``, then the student goes on (TCOD backward-to-forward, arXiv 2604.24005, algorithm 2).

    ``by: recorded`` takes them from the episode that a source of kind ``recorded`` starts again: the exact tokens that were written then.
    """

    by: str = EXPERT
    turns: Annotated[float, Field(ge=0.0)] = 1.0
    """How many, rounded down; of a recorded episode the last turn is the student's at least."""
    counted_from: Literal["start", "end"] = "start"
    """``end``: all but ``turns`` of the turns of the recorded episode, or of the expert's own, which is played first; the expert's actions
    there are given again."""

    @property
    def foresees(self) -> bool:
        """Where turns are counted from the end of the expert's episode."""
        return self.counted_from == "end" and self.by != RECORDED

    @property
    def needs_expert(self) -> bool:
        """Also where only the length of its episode is needed."""
        return self.foresees or super().needs_expert

    def who(self, moment: Moment) -> str | None:
        """``by`` in the first turns."""
        turns = math.floor(self.turns + ROUNDING)
        length = moment.shown_turns - turns if self.counted_from == "end" else turns
        if self.by == RECORDED:
            length = min(length, moment.shown_turns - 1)
        return self.by if moment.turn < length else None


@dataclass(frozen=True, kw_only=True)
class Turns(Beside):
    """Each turn is acted by ``by`` with a probability, else by the student (Guided-OPD, arXiv 2606.15912; DAgger by turns)."""

    probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Of each turn."""

    def who(self, moment: Moment) -> str | None:
        """``by``, where the turn's number is below the probability."""
        return self.by if moment.uniform < self.probability else None


@dataclass(frozen=True, kw_only=True)
class Takeover(Beside):
    """The student's first bad turn is taken back and acted by ``by`` instead (SCoRe, arXiv 2509.14257).

    The environment is brought back by giving a new instance, with the same seed, the actions before that turn. What the student
    did in it is not kept. One turn of an episode is taken over at most.
    """

    mistake: Literal["error", "disagreement", "either"] = "either"
    """What one is: a turn with an error; one whose calls (its text, where neither calls) are not those of the expert's advice."""
    then: Literal["student", "teacher"] = "student"
    """Who acts after it: the student again, or ``by`` to the end."""

    @property
    def needs_expert(self) -> bool:
        """Also where only its advice is needed."""
        return self.mistake == "disagreement" or super().needs_expert

    @property
    def asks_expert(self) -> bool:
        """Where to disagree with it is bad."""
        return self.mistake != "error" or self.needs_expert

    def who(self, moment: Moment) -> str | None:
        """``by`` at the turn that is taken over, and after it where it acts to the end."""
        if moment.mended is None:
            return None
        return self.by if moment.turn == moment.mended or self.then == "teacher" else None

    def mends(self, turn: Turn) -> bool:
        """Whether the turn is bad."""
        errs = self.mistake != "disagreement" and bool(turn.errors)
        return errs or (self.mistake != "error" and turn.advice is not None and _differ(turn.action, turn.advice))


@dataclass(frozen=True, kw_only=True)
class Tokens(Beside):
    """Each token is drawn from (1 - alpha) p + alpha q of student and teacher (MiniLLM, arXiv 2306.08543, equation 5).

    All are the student's tokens, and their behaviour log-probability is that of the mixture.
    """

    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """The teacher's share."""

    @property
    def mixing(self) -> Mixing:
        """By the mixture of both."""
        return Blended(self.alpha)


@dataclass(frozen=True, kw_only=True)
class Speculative(Beside):
    """A token that the student draws is kept where it is among the teacher's ``k`` most probable, else the teacher draws one.

    SKD (arXiv 2410.11325, algorithm 1). A token that the teacher drew has the teacher as its actor. The behaviour log-probability
    is that of the distribution which its actor drew it from, p or q; that it was accepted is not in it.
    """

    k: Annotated[int, Field(ge=1)] = 25
    """The fewer, the more the teacher writes."""

    @property
    def mixing(self) -> Mixing:
        """By what the teacher accepts."""
        return Accepted(self.k)


ACTING: Registry = {
    "whole": Acting,
    "prefix": Prefix,
    "turns": Turns,
    "takeover": Takeover,
    "tokens": Tokens,
    "speculative": Speculative,
}
"""Classes ``(*, settings...) -> Acting``, read by ``OneOf("acting", ACTING)``."""


def _differ(action: str, advice: str) -> bool:
    return _meant(action) != _meant(advice)


def _meant(action: str) -> tuple[ToolCall, ...] | str:
    """What an action does: its calls, or, without any, what it says."""
    parsed = parse_action(action)
    return parsed.calls or parsed.content.strip()
