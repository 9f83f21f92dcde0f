"""What a set of episodes looked like, as numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from agentopd.tooling import parse_action
from agentopd.types import CONTEXT, CallOutcome, Stop, Trajectory

LIMITS: tuple[Stop, ...] = ("truncated", "turn_limit", "token_limit", "overflow")
"""Ends of episodes that are none of the task's own."""
COVERED = 0.8
"""The share of the successes that ``solved_within`` covers."""


def rollout_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over episodes, failed ones included (they count as no success); empty without episodes.

    ``success``, ``reward``, ``turns``, ``tokens`` (of all segments), ``generated`` and ``prefilled`` tokens, ``drift/KIND``,
    ``errors/KIND`` and ``stop/KIND`` are per episode; ``truncated`` is the share of episodes that a limit ended, whichever it was;
    ``thinking_tokens`` and ``thinking_cut``, where a turn thought, are the tokens of thoughts and the turns whose thought was closed at
    ``rollout.thinking_budget``, per episode;
    ``acted/ACTOR``, where several act in an episode, is the share of action tokens that each wrote; ``cut`` is the share of turns cut at the limit, and ``parsed`` that of actions in which every block is a call; ``failures`` is the share
    of failed episodes and ``failures/KIND`` its parts; of each tool, ``tools/NAME/calls`` is per episode, ``tools/NAME/errors`` the share of
    its calls that ended in an error of any kind, ``tools/NAME/seconds`` the mean of a call (an unknown tool is among the errors alone); ``solved_within``, where an episode succeeded, is the least number of turns
    within which four fifths of those that did were over; ``seconds/policy`` and ``seconds/env`` are totals, the latter of work in parallel.
    """
    if not trajectories:
        return {}
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    sums = {
        "success": float(sum(t.outcome.success for t in trajectories)),
        "reward": sum(t.outcome.total_reward for t in trajectories),
        "turns": float(len(turns)),
        "tokens": float(sum(len(segment) for t in trajectories for segment in t.segments)),
        "generated": float(sum(turn.stop - turn.start for turn in turns)),
        "prefilled": float(sum(turn.prefilled for turn in turns)),
        "truncated": float(sum(t.outcome.stop in LIMITS for t in trajectories)),
        "failures": float(sum(t.failure is not None for t in trajectories)),
        **dict.fromkeys(("drift/clean", "drift/realigned", "drift/forked"), 0.0),
        **_counted("drift", [turn.drift for turn in turns if turn.drift != "last"]),
        **_counted("errors", [error for turn in turns for error in turn.errors]),
        **_counted("stop", [t.outcome.stop for t in trajectories]),
        **_counted("failures", [t.failure.kind for t in trajectories if t.failure is not None]),
    }
    sums |= _thought(trajectories)
    means = {name: value / len(trajectories) for name, value in sums.items()}
    return means | {
        "cut": sum(turn.finish == "length" for turn in turns) / max(len(turns), 1),
        "parsed": 1.0 - sum(bool(parse_action(turn.action).problems) for turn in turns) / max(len(turns), 1),
        "seconds/policy": sum(turn.seconds_policy for turn in turns),
        "seconds/env": sum(turn.seconds_env for turn in turns),
        **_tools([outcome for turn in turns for outcome in turn.outcomes], len(trajectories)),
        **_acted(trajectories),
        **_solved(trajectories),
    }


def _tools(outcomes: Iterable[CallOutcome], episodes: int) -> dict[str, float]:
    by_name: dict[str, list[CallOutcome]] = {}
    for outcome in outcomes:
        if outcome.outcome != "unknown_tool":  # its name is whatever a model made up
            by_name.setdefault(outcome.name, []).append(outcome)
    return {
        f"tools/{name}/{what}": value
        for name, calls in sorted(by_name.items())
        for what, value in {
            "calls": len(calls) / episodes,
            "errors": sum(call.outcome != "ok" for call in calls) / len(calls),
            "seconds": sum(call.seconds for call in calls) / len(calls),
        }.items()
    }


def _acted(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    if all(len(trajectory.actors) < 2 for trajectory in trajectories):
        return {}
    wrote: Counter[str] = Counter()
    for trajectory in trajectories:
        for segment in trajectory.segments:
            counts = np.bincount(segment.actor_T[segment.turn_T != CONTEXT], minlength=len(trajectory.actors))
            wrote.update(dict(zip(trajectory.actors, counts.tolist(), strict=True)))
    return {f"acted/{actor}": count / max(wrote.total(), 1) for actor, count in wrote.items()}


def _thought(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    turns = [(t.segments[turn.segment], turn) for t in trajectories for turn in t.turns if turn.thinking]
    if not turns:
        return {}
    cut = sum(bool((segment.turn_T[turn.start : turn.stop] == CONTEXT).any()) for segment, turn in turns)
    return {"thinking_tokens": float(sum(turn.thinking for _, turn in turns)), "thinking_cut": float(cut)}


def _solved(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    lengths = [len(trajectory.turns) for trajectory in trajectories if trajectory.outcome.success]
    if not lengths:
        return {}
    return {"solved_within": float(np.quantile(lengths, COVERED, method="inverted_cdf"))}


def _counted(prefix: str, names: Sequence[str]) -> dict[str, float]:
    return {f"{prefix}/{name}": float(count) for name, count in Counter(names).items()}
