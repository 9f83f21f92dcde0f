"""An episode that repeats a recorded one for some turns: its actions, token by token, and whether the same comes back."""

from collections.abc import Sequence

from agentopd.isolation.compared import first_difference
from agentopd.types import Message, Trajectory, Turn

REPEATED = ("action", "observations", "reward", "terminated", "truncated")
"""What of a turn must be what it was."""
REMEDY = "only where task and actions decide what an environment answers can a recorded episode be begun again"


def tokens_of_turn(recorded: Trajectory, turn: int) -> tuple[int, ...]:
    """The exact tokens of one action."""
    one = recorded.turns[turn]
    return tuple(recorded.segments[one.segment].tokens_T[one.start : one.stop].tolist())


def other_start(recorded: Trajectory, opening: Sequence[Message], prompt: Sequence[int]) -> str | None:
    """What is different where an episode does not begin as ``recorded`` did; ``None`` where it does."""
    found = first_difference(None, [("opening", recorded.opening, opening)])
    if found is not None:
        return f"{_said(recorded)}: {found}; {REMEDY}"
    first = recorded.turns[0]
    if recorded.segments[first.segment].tokens_T[: first.start].tolist() != list(prompt):
        return (
            f"{_said(recorded)}: its first prompt is now written in other tokens; give the chat template, template_kwargs, call_format and "
            "tools that it was played with"
        )
    return None


def other_answer(recorded: Trajectory, turn: Turn) -> str | None:
    """What is different where something else came back after ``turn`` than in ``recorded``; ``None`` where the same did."""
    then = recorded.turns[turn.index]
    found = first_difference(turn.index, [(name, getattr(then, name), getattr(turn, name)) for name in REPEATED])
    return None if found is None else f"{_said(recorded)}: {found}; {REMEDY}"


def _said(recorded: Trajectory) -> str:
    return f"{recorded.task.env_id} with seed {recorded.task.seed} does not repeat episode {recorded.key}"
