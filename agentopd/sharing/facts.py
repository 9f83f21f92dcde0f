"""What is known of an episode beside its text, as a row of a data set may hold it: its task and how it ended."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, get_args

from agentopd.sharing.talk import Talk
from agentopd.tooling.answer import plain_data
from agentopd.types import IMPORTED, Key, Outcome, Stop, Task, Trajectory

SEEDS = 2**64
"""How many seeds there are."""
WHOLE = 2**53
"""Up to here every whole number is a real one, too."""
MARK = "agentopd"
"""The fact that tells such facts from the metadata of others: the version of their form."""
VERSION = 1
BY_TURN = ("rewards", "advice")
"""The facts that have an entry for each turn."""


def facts_of(trajectory: Trajectory, privileged: bool = False) -> dict[str, Any]:
    """The facts of an episode.

    Args:
        trajectory: The episode.
        privileged: Whether to add what was never shown to the student: what its environment was made and reset with, facts for teachers,
            and the expert's advice by turn.
    """
    task, outcome = trajectory.task, trajectory.outcome
    facts: dict[str, Any] = {
        MARK: VERSION,
        "key": str(trajectory.origin or trajectory.key),
        "env": task.env_id,
        "seed": task.seed,
        "split": task.split,
        "tags": list(task.tags),
        "family": trajectory.family,
        "success": bool(outcome.success),
        "reward": float(outcome.total_reward),
        "rewards": [float(turn.reward) for turn in trajectory.turns],
        "stop": outcome.stop,
    }
    if privileged:
        facts |= {
            "kwargs": dict(task.kwargs),
            "options": None if task.options is None else dict(task.options),
            "privileged": dict(trajectory.privileged),
            "advice": [turn.advice for turn in trajectory.turns],
        }
    checked: dict[str, Any] = plain_data(facts)
    return checked


def of_turn(facts: Mapping[str, Any], turn: int) -> dict[str, Any]:
    """The facts of a row that is one turn of an episode: its number, and of what is told by turn its own.

    The task, and how the episode ended, stay those of the episode.
    """
    own = {name: [facts[name][turn]] for name in BY_TURN if name in facts}
    return {**facts, **own, "turn": turn} if facts else {}


def told(metadata: Any) -> dict[str, Any]:
    """The facts in the metadata of a row, which may be JSON text; none where they are not ours.

    Raises:
        ValueError: They are of a version that is not known.
    """
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError):
            return {}
    if not isinstance(metadata, Mapping) or MARK not in metadata:
        return {}
    if metadata[MARK] != VERSION:
        raise ValueError(
            f"metadata.{MARK} is {metadata[MARK]!r:.60}, and {VERSION} is the version that can be read; leave metadata out"
        )
    facts: dict[str, Any] = plain_data(dict(metadata))
    return facts


def task_of(talk: Talk, env: str | None) -> Task:
    """The task of a conversation; where its facts tell none, one that all conversations with the same opening share.

    Raises:
        ValueError: A fact is of another type than :func:`facts_of` gives it.
    """
    facts = talk.facts
    seed = _fact(facts, "seed", int, _number_of(talk))
    if not 0 <= seed < SEEDS:
        raise ValueError(
            f"metadata.seed is {seed!r:.60}, and it must be 0 or more and below 2**64; mend it or leave it out"
        )
    return Task(
        env_id=env or _fact(facts, "env", str, IMPORTED),
        seed=seed,
        kwargs=_fact(facts, "kwargs", dict, {}),
        options=_fact(facts, "options", dict, None),
        split=_fact(facts, "split", str, "train"),
        tags=tuple(_all(facts, "tags", str)),
    )


def outcome_of(facts: Mapping[str, Any], success: bool) -> Outcome:
    """How an episode ended; ``success`` where its facts do not tell.

    Raises:
        ValueError: As of :func:`task_of`.
    """
    stop = _fact(facts, "stop", str, "terminated")
    if stop not in get_args(Stop):
        raise ValueError(f"metadata.stop={stop!r}; it is one of {', '.join(get_args(Stop))}")
    reward = _fact(facts, "reward", float, 0.0)
    return Outcome(reward, _fact(facts, "success", bool, success), stop)


def rewards_of(facts: Mapping[str, Any], turns: int) -> list[float]:
    """The reward of each turn; all of it in the last one where the facts tell the sum alone.

    Raises:
        ValueError: As of :func:`task_of`, or there is not one for each turn.
    """
    if facts.get("rewards") is None:
        return [0.0] * (turns - 1) + [_fact(facts, "reward", float, 0.0)]
    return _each(_all(facts, "rewards", float), "rewards", turns)


def advice_of(facts: Mapping[str, Any], turns: int) -> list[str | None]:
    """The expert's advice for each turn, where the facts tell it.

    Raises:
        ValueError: As of :func:`rewards_of`.
    """
    if facts.get("advice") is None:
        return [None] * turns
    return _each(_all(facts, "advice", str, empty=True), "advice", turns)


def family_of(facts: Mapping[str, Any]) -> str:
    """The kind of task; empty where none was told."""
    return str(_fact(facts, "family", str, ""))


def privileged_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts for teachers."""
    return dict(_fact(facts, "privileged", dict, {}))


def origin_of(facts: Mapping[str, Any]) -> Key | None:
    """The key under which the episode was played, where it is known; a row that is one turn of it is another episode.

    Raises:
        ValueError: As of :func:`task_of`, or the key is none.
    """
    key, turn = _fact(facts, "key", str, None), _fact(facts, "turn", int, None)
    return None if key is None or turn is not None else Key.parse(key)


def _each(values: list[Any], name: str, turns: int) -> list[Any]:
    if len(values) != turns:
        raise ValueError(
            f"metadata.{name} has {len(values)} entries for {turns} turns of the assistant; give one for each"
        )
    return values


def _fact(facts: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = facts.get(name)
    return default if value is None else _of_kind(value, kind, name)


def _all(facts: Mapping[str, Any], name: str, kind: type, empty: bool = False) -> list[Any]:
    """The entries of a list, each of one kind, or null too where they may be ``empty``."""
    entries = enumerate(_fact(facts, name, list, []))
    return [None if empty and one is None else _of_kind(one, kind, f"{name}[{i}]") for i, one in entries]


def _of_kind(value: Any, kind: type, name: str) -> Any:
    whole = kind is float and type(value) is int and abs(value) < WHOLE
    if type(value) is not kind and not whole:
        raise ValueError(f"metadata.{name} is {value!r:.60}, and it must be {kind.__name__}; mend it or leave it out")
    return float(value) if whole else value


def _number_of(talk: Talk) -> int:
    """A number that conversations with the same opening, and the same tools, share."""
    first = next((at for at in talk.turns if at not in talk.untrained), len(talk.messages))
    start = json.dumps([talk.messages[:first], talk.tools], sort_keys=True, default=dict)
    return int.from_bytes(hashlib.sha256(start.encode()).digest()[:8]) >> 1
