"""Evaluation: a fixed panel of held-out tasks, and intervals for what it shows."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agentopd.chat import Chat, Hint
from agentopd.errors import ConfigError
from agentopd.rollout.collect import collect
from agentopd.rollout.policy import Assignment, Policy, Rollout
from agentopd.types import STUDENT, Key, Task, Trajectory

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of ``n`` that succeeded."""

    successes: int
    n: int

    @property
    def value(self) -> float:
        """The share, ``nan`` without any."""
        return self.successes / self.n if self.n else math.nan

    @property
    def interval(self) -> Interval:
        """The 95% Wilson interval."""
        return wilson(self.successes, self.n)

    def text(self) -> str:
        """In per cent with its interval, such as ``78.5% [72.3, 83.6]``."""
        if not self.n:
            return "no episodes"
        return f"{100 * self.value:.1f}% [{100 * self.interval.low:.1f}, {100 * self.interval.high:.1f}]"


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two shares, after minus before, with its interval."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """In points with its interval, such as ``+31.0 points [23.9, 37.7]``."""
        return f"{100 * self.value:+.1f} points [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The score interval of a binomial share (Wilson 1927, JASA 22:209-212). Without trials it is [0, 1].

    Raises:
        ValueError: Not 0 <= successes <= n, or the confidence is not between 0 and 1.
    """
    if not 0 <= successes <= n or not 0 < confidence < 1:
        raise ValueError(
            f"wilson: successes={successes}, n={n}, confidence={confidence}; needs 0 <= successes <= n, 0 < confidence < 1"
        )
    if n == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # rounding must not put 0 or n successes outside their own interval
    return Interval(0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def paired_difference(before: ArrayLike, after: ArrayLike, confidence: float = CONFIDENCE) -> Difference:
    """The change of a success rate over the same tasks, with an interval that uses the pairing.

    Newcombe's square-and-add interval, method 10 of "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17 (1998), 2635-2650: Wilson intervals of both rates, joined
    with the correlation of the pairs. Results of several seeds are pooled by joining their pairs end to end.

    Args:
        before: Success of each task, [n].
        after: Success of the same tasks in the same order, [n].
        confidence: Of the interval.

    Raises:
        ValueError: The lengths differ, or there are no tasks.
    """
    was, now = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if was.ndim != 1 or was.shape != now.shape or not len(was):
        raise ValueError(
            f"paired_difference: shapes {was.shape} and {now.shape}; give the success of the same tasks, at least one"
        )
    n, gained, lost = len(was), int((now & ~was).sum()), int((was & ~now).sum())
    p, q = now.mean(), was.mean()
    (p_low, p_high), (q_low, q_high) = (wilson(int(x.sum()), n, confidence) for x in (now, was))
    phi = _phi(n, int((was & now).sum()), gained, lost)
    value = (gained - lost) / n
    return Difference(value, value - _joined(p - p_low, q_high - q, phi), value + _joined(p_high - p, q - q_low, phi))


def _phi(n: int, both: int, gained: int, lost: int) -> float:
    """The correlation of the pairs, a positive one corrected for continuity; 0 where a rate is 0 or 1."""
    neither = n - both - gained - lost
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if not margins:
        return 0.0
    product = both * neither - gained * lost
    return (max(product - n / 2, 0.0) if product > 0 else product) / math.sqrt(margins)


def _joined(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))


def by_depth(turn_A: ArrayLike, value_A: ArrayLike) -> list[tuple[int, float, int]]:
    """Depth, mean and count of ``value_A`` at each turn, in order of depth; values that are ``nan`` are left out.

    Args:
        turn_A: The turn of each row, counted from 0, [A].
        value_A: What to average, [A].
    """
    turns, values = np.asarray(turn_A), np.asarray(value_A, np.float64)
    known = ~np.isnan(values)
    turns, values = turns[known], values[known]
    return [(int(d), float(values[turns == d].mean()), int((turns == d).sum())) for d in np.unique(turns)]


@dataclass(frozen=True, slots=True)
class Played:
    """What one task of a panel came to."""

    task: str
    """``Task.id``."""
    env: str
    success: bool
    """Never of a failed episode."""
    reward: float
    turns: int
    errors: tuple[tuple[str, ...], ...]
    """Kinds of bad actions, turn by turn."""
    stop: str
    failure: str | None = None
    """The kind of infrastructure failure that ended it."""
    family: str = ""
    """The kind of task that the environment told; empty where it told none, or failed before that."""


@dataclass(frozen=True, slots=True)
class Depth:
    """What a panel shows of one depth. Turns are counted from 1; depth 0 are episodes that failed before a turn."""

    depth: int
    episodes: Rate
    """Success of the episodes that took exactly this many turns."""
    turns: int
    """Episodes that got as far as this turn."""
    errors: int
    """Bad actions in this turn, of all of them."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Episodes of a fixed list of tasks, one each, in the order of the list."""

    episodes: tuple[Played, ...]

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> Self:
        """What is kept of ``trajectories``."""
        return cls(tuple(map(_played, trajectories)))

    @property
    def success_B(self) -> NDArray[np.bool_]:
        """Success by task, for :func:`paired_difference`."""
        return np.array([played.success for played in self.episodes], dtype=np.bool_)

    @property
    def success(self) -> Rate:
        """The share of all tasks that succeeded; failed episodes count as unsuccessful."""
        return Rate(int(self.success_B.sum()), len(self.episodes))

    @property
    def failed(self) -> int:
        """Episodes that infrastructure ended."""
        return sum(played.failure is not None for played in self.episodes)

    @property
    def mean_reward(self) -> float:
        """Per episode, ``nan`` without any."""
        return _mean([played.reward for played in self.episodes])

    @property
    def mean_turns(self) -> float:
        """Per episode, ``nan`` without any."""
        return _mean([played.turns for played in self.episodes])

    def by_family(self) -> dict[str, Rate]:
        """Success by kind of task, in order of name. Where an environment tells no family, its id is the family."""
        members: dict[str, list[bool]] = {}
        for played in self.episodes:
            members.setdefault(played.family or played.env, []).append(played.success)
        return {family: Rate(sum(members[family]), len(members[family])) for family in sorted(members)}

    def errors(self) -> Counter[str]:
        """Bad actions by kind."""
        return Counter(kind for played in self.episodes for turn in played.errors for kind in turn)

    def stops(self) -> Counter[str]:
        """Episodes by what ended them."""
        return Counter(played.stop for played in self.episodes)

    def by_depth(self) -> list[Depth]:
        """Success and errors at each depth that occurs."""
        deepest = max((played.turns for played in self.episodes), default=0)
        return [depth for depth in map(self._at, range(deepest + 1)) if depth.episodes.n or depth.turns]

    def _at(self, depth: int) -> Depth:
        ended = [played.success for played in self.episodes if played.turns == depth]
        reached = [played.errors[depth - 1] for played in self.episodes if played.turns >= depth > 0]
        return Depth(depth, Rate(sum(ended), len(ended)), len(reached), sum(map(len, reached)))

    def change_from(self, before: "Panel") -> Difference:
        """The paired difference of success from ``before`` to this panel.

        Raises:
            ConfigError: The panels are not over the same tasks.
        """
        self._require_paired(before)
        return paired_difference(before.success_B, self.success_B)

    def changes_from(self, before: "Panel") -> dict[str, Difference]:
        """:meth:`change_from` for each family, in order of name. An episode that failed to start is of its task's family in the other panel.

        Raises:
            ConfigError: The panels are not over the same tasks.
        """
        self._require_paired(before)
        pairs = list(zip(before.episodes, self.episodes, strict=True))
        family_B = np.array([now.family or was.family or now.env for was, now in pairs])
        members = {str(family): family_B == family for family in np.unique(family_B)}
        return {name: paired_difference(before.success_B[at], self.success_B[at]) for name, at in members.items()}

    def _require_paired(self, before: "Panel") -> None:
        if [played.task for played in before.episodes] != [
            played.task for played in self.episodes
        ] or not self.episodes:
            raise ConfigError(
                f"panels of {len(before.episodes)} and {len(self.episodes)} tasks cannot be paired: their tasks differ; "
                "play both with the same envs, evaluation.seed and evaluation.tasks"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"episodes": [asdict(played) for played in self.episodes]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` gave, also after a way through JSON."""
        return cls(tuple(Played(**(e | {"errors": tuple(map(tuple, e["errors"]))})) for e in plain["episodes"]))


def _played(trajectory: Trajectory) -> Played:
    outcome, failure = trajectory.outcome, trajectory.failure
    return Played(
        task=trajectory.task.id,
        env=trajectory.task.env_id,
        success=bool(outcome.success) and failure is None,
        reward=float(outcome.total_reward),
        turns=len(trajectory.turns),
        errors=tuple(turn.errors for turn in trajectory.turns),
        stop=outcome.stop,
        failure=None if failure is None else failure.kind,
        family=trajectory.family,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def run_panel(
    tasks: Sequence[Task],
    policy: Policy,
    chat: Chat,
    settings: Rollout,
    actor: str = STUDENT,
    seed: int = 0,
    on_done: Callable[[Trajectory], None] | None = None,
    hint: Hint | None = None,
    play: Callable[..., list[Trajectory]] = collect,
) -> Panel:
    """Plays every task once.

    Args:
        tasks: The panel. The same list gives panels that can be paired.
        policy: Who acts.
        chat: Of the policy's tokenizer.
        settings: How turns are sampled and how long episodes may be.
        actor: The name under which the policy acts.
        seed: Of the policy's draws; tasks have their own.
        on_done: Called with each trajectory when it ends.
        hint: What the policy is shown of each episode's privileged facts.
        play: What plays episodes, as :func:`agentopd.rollout.collect` does.

    Raises:
        EnvError: More episodes failed than ``settings.max_failures`` allows.
    """
    draws = [int(np.random.default_rng([seed, i]).integers(2**63)) for i in range(len(tasks))]
    assignments = [
        Assignment(task, Key("panel", 0, i), actor, draw, "panel")
        for i, (task, draw) in enumerate(zip(tasks, draws, strict=True))
    ]
    hints = {} if hint is None else {actor: hint}
    return Panel.of(play(assignments, {actor: policy}, chat, settings, on_done=on_done, hints=hints))
