"""One episode, played again. Everything here runs where its environment lives: in a thread or a process of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from agentopd.errors import ConfigError, describe
from agentopd.isolation.compared import Compared, Difference, first_difference
from agentopd.isolation.session import Observed, Session
from agentopd.types import Outcome, Trajectory, Turn, success_of

UNDER_WAY = "not over"
"""What is said of an episode that has not ended."""


@dataclass(frozen=True, slots=True)
class Found:
    """How far an episode is what it was."""

    turns: int
    """Recorded turns that were played again and were the same."""
    difference: Difference | None = None
    refused: str = ""
    """Why there is no such environment."""
    raised: str = ""
    """What the environment raised."""


def answered(trajectory: Trajectory) -> tuple[Turn, ...]:
    """The turns that the environment has answered: an episode may have failed at its last."""
    turns = trajectory.turns
    unanswered = trajectory.failure is not None and turns and not turns[-1].observations
    return turns[:-1] if unanswered else turns


class Again:
    """Plays an episode again; see :class:`agentopd.isolation.lane.Hosted`."""

    def __init__(self, trajectory: Trajectory) -> None:
        """Nothing is made yet."""
        self._recorded = replace(trajectory, segments=())  # an environment knows no tokens
        self._turns = answered(trajectory)
        # an expert that was asked may have drawn numbers; it is asked exactly where it was
        self._advised = any(turn.advice is not None for turn in trajectory.turns)
        self._session = Session(trajectory.task, advice=self._advised, needs_expert=False)

    @property
    def env_id(self) -> str:
        """Of its task."""
        return self._recorded.task.env_id

    @property
    def calls(self) -> int:
        """How many calls of the environment :meth:`replay` makes."""
        return 1 + len(self._turns)

    def replay(self) -> Found:
        """Gives the recorded actions until something differs."""
        turns = 0
        try:
            for turn, compared in self._answers():
                found = first_difference(turn, compared)
                if found is not None:
                    return Found(turns, found)
                turns += turn is not None
        except ConfigError as error:
            return Found(turns, refused=str(error))
        except Exception as error:  # of whatever kind: it is a user's code
            return Found(turns, raised=describe(error))
        return Found(turns)

    def _answers(self) -> Iterator[tuple[int | None, Sequence[Compared]]]:
        """What is compared, answer by answer: by its turn, with what came before any as ``None``."""
        if self._recorded.failure is not None and not self._recorded.opening:
            return  # it failed before anything was answered
        observed, rewards = self._session.reset(), 0.0
        yield None, self._opening(observed)
        for turn in self._turns:
            advice = [("advice", turn.advice, observed.advice)] if self._advised else []
            observed = self._session.step(turn.action)
            rewards += observed.reward
            yield turn.index, [*advice, *observed.beside(turn)]
        if self._recorded.failure is None:
            yield None, self._outcome(observed, rewards)

    def _opening(self, observed: Observed) -> list[Compared]:
        was = self._recorded
        return [
            ("opening", was.opening, observed.conversation),
            ("tools", was.tools, observed.tools),
            (
                "family",
                was.family,
                observed.family if was.family else "",
            ),  # records from before there were families have none
            ("privileged", was.privileged, observed.privileged or {}),
        ]

    def _outcome(self, last: Observed, rewards: float) -> list[Compared]:
        was: Outcome = self._recorded.outcome
        own = {"terminated": last.terminated, "truncated": last.truncated and not last.terminated}
        stop = next((name for name, ends in own.items() if ends), UNDER_WAY)
        limited = was.stop not in own and stop == UNDER_WAY  # what ended it was not the environment's
        return [
            ("outcome.stop", was.stop, was.stop if limited else stop),
            ("outcome.total_reward", was.total_reward, rewards),
            ("outcome.success", was.success, success_of(last.success, rewards, was.stop)),
        ]

    def close(self) -> None:
        """Closes the environment, where one was made."""
        self._session.close()

    @staticmethod
    def packed(found: Found | None) -> dict[str, Any] | None:
        """As plain data, field by field."""
        return None if found is None else asdict(found)

    @staticmethod
    def unpacked(packed: dict[str, Any] | None) -> Found | None:
        """The reverse of :meth:`packed`."""
        if packed is None:
            return None
        difference = packed["difference"]
        return Found(**packed | {"difference": None if difference is None else Difference(**difference)})
