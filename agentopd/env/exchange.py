"""One exchange with an environment: a canonical action in, role-tagged messages out. Shared by ``TextEnv`` and the wrappers."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsFloat, TypeAlias

import gymnasium

from agentopd.errors import EnvError, ToolError
from agentopd.tooling import ToolSet, brief, parse_action
from agentopd.tooling.answer import plain_data, well_formed
from agentopd.types import Message, ToolCall

Step: TypeAlias = tuple[str, float, bool, bool, dict[str, Any]]


class TextSpace(gymnasium.Space[str]):
    """Every string. (Gymnasium's own ``Text`` knows only strings over a fixed alphabet and up to a fixed length.)"""

    def __init__(self, seed: int | None = None):
        super().__init__(seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no array form."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A few lower-case letters; masks mean nothing here."""
        return "".join(chr(97 + self.np_random.integers(26)) for _ in range(8))

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string."""
        return isinstance(x, str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextSpace)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "TextSpace()"


@dataclass
class Reply:
    """What came back for one action: messages in order, and the kinds of what was wrong with it. All text in it is well-formed."""

    messages: list[Message] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def observation(self) -> str:
        """The messages as one text."""
        return "\n".join(message["content"] for message in self.messages)

    @property
    def info(self) -> dict[str, Any]:
        """The messages and errors as ``info`` holds them."""
        return {"messages": self.messages, "errors": self.errors}

    def say(self, text: str) -> None:
        """Adds a user message."""
        self.messages.append({"role": "user", "content": well_formed(text)})

    def run(self, calls: Iterable[ToolCall], tools: ToolSet, over: Callable[[], bool]) -> None:
        """Runs calls until the episode is ``over``; each answer, or what was wrong, becomes a tool message."""
        for call, told in tools.call_all(calls, over):
            if isinstance(told, ToolError):
                self.errors.append(told.kind)
            self.messages.append({"role": "tool", "name": call.name, "content": well_formed(str(told))})

    def complain(self, problems: tuple[str, ...]) -> None:
        """Tells of malformed blocks in one user message; each counts as an error."""
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            self.say(f"malformed call: {problems[0]}{more}")
            self.errors += ["malformed_call"] * len(problems)


def reply_to(action: str, tools: ToolSet, respond: Callable[[str], str], over: Callable[[], bool]) -> Reply:
    """Answers an action: its calls in order, then its malformed blocks; without either, what ``respond`` makes of the text."""
    parsed, reply = parse_action(action), Reply()
    reply.run(parsed.calls, tools, over)
    reply.complain(parsed.problems)
    if not parsed.calls and not parsed.problems:
        try:
            reply.say(respond(action))
        except ToolError as error:
            reply.say(str(error))
            reply.errors.append(error.kind)
    return reply


def reward_of(given: Any, whose: str) -> float:
    """A reward as a number; ``whose`` it is stands in messages.

    Raises:
        EnvError: it is not a finite number.
    """
    try:
        # most are one of these two, and to look for the protocol takes longer than all the rest
        number = float(given) if type(given) in (float, int) or isinstance(given, SupportsFloat) else math.nan
    except (TypeError, ValueError, OverflowError):  # an array, for instance
        number = math.nan
    if not math.isfinite(number):
        raise EnvError(f"{whose}: a reward must be a finite number, not {brief(repr(given), 80)}")
    return number


def facts_of(given: Any, whose: str) -> dict[str, Any]:
    """Privileged facts as fresh plain data, which records can keep; ``whose`` they are stands in messages.

    Arrays, sets, dataclasses and the like are converted as what tools return is (``agentopd.tooling.answer``).

    Raises:
        EnvError: they are no dict, or hold something without a plain form; the message names its key.
    """
    if not isinstance(given, Mapping):
        raise EnvError(f"{whose} must be a dict of facts, not {brief(repr(given), 80)}")
    facts: dict[str, Any] = {}
    for key, value in given.items():
        try:
            facts |= plain_data({key: value})
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"{key!r} is no plain data ({brief(str(error), 100)})"
            raise EnvError(
                f"{whose}: {reason}; give text, numbers, booleans, None, or lists and dicts of them"
            ) from error
    return facts


def family_of(given: Any, whose: str) -> str:
    """The name of a family of tasks; ``whose`` it is stands in messages.

    Raises:
        EnvError: it is no text.
    """
    if not isinstance(given, str):
        raise EnvError(f"{whose} must be text, the name of a kind of task, not {brief(repr(given), 80)}")
    return well_formed(given)


def no_call(tools: ToolSet) -> ToolError:
    """What an action without a call is told where only tools can act."""
    return ToolError(f"Call a tool: {', '.join(tools.names)}.", kind="no_call")
