"""A living episode beside its environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentopd.chat import Chat, Hint
from agentopd.isolation.lane import Host, Lane
from agentopd.isolation.session import Session
from agentopd.profiling import lasted
from agentopd.rollout.episode import Episode
from agentopd.rollout.policy import Assignment, Rollout
from agentopd.types import EXPERT, Failure


@dataclass(slots=True, eq=False)
class Slot:
    """A living episode and its environment."""

    episode: Episode
    session: Session
    host: Host
    lane: Lane = field(init=False)

    def __post_init__(self) -> None:
        """Starts the environment."""
        self.lane = self.host.lane(self.session)
        self.lane.submit("reset", calls=self.session.calls)

    @property
    def ready(self) -> bool:
        """Whether the environment has answered, or has not in time."""
        return self.lane.ready

    def advance(self) -> None:
        """Waits for the environment and tells the episode."""
        observed = self.lane.result()
        if not isinstance(observed, Failure):
            lasted("environment", str(self.episode.number), observed.seconds)
        if isinstance(observed, Failure):
            self.episode.fail(observed)
        elif not self.episode.begun:
            self.episode.open(observed)
        elif self.episode.replaying:
            self.episode.resume(observed)
        else:
            self.episode.observe(observed)
            if self.episode.replaying:
                self._begin_again()

    def close(self) -> None:
        """Lets the environment go, without waiting for it."""
        self.lane.close()

    def _begin_again(self) -> None:
        """Brings a new environment to where the episode now stands."""
        self.close()
        self.session = self.session.fresh()
        self.lane = self.host.lane(self.session)
        turns = tuple(self.episode.turns)
        self.lane.submit("replay", tuple(self.episode.opening), turns, calls=1 + len(turns))


def begun(
    number: int,
    assignment: Assignment,
    chat: Chat,
    settings: Rollout,
    host: Host,
    advice: bool,
    hints: Mapping[str, Hint],
) -> Slot:
    """The episode ``number``, whose environment has been started; the other arguments are those of :func:`agentopd.rollout.collect`."""
    acting = assignment.acting
    session = Session(
        assignment.task,
        advice=advice or acting.asks_expert,
        needs_expert=assignment.actor == EXPERT or acting.needs_expert,
        foresee=settings.max_turns if acting.foresees else 0,
    )
    shown = {
        actor: hint
        for actor, hint in hints.items()
        if actor in assignment.actors and hint.shown_in(assignment.task.env_id)
    }
    return Slot(Episode(number, assignment, chat, settings, shown), session, host)
