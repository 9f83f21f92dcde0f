"""What a policy's tokens say, and what follows them."""

from dataclasses import dataclass
from typing import Literal

from agentopd.types import Message, ToolCall


@dataclass(frozen=True, slots=True)
class Action:
    """What a policy's tokens say."""

    text: str
    """Decoded verbatim, without the final end of turn."""
    canonical: str
    """What the environment reads: canonical action text without thinking. A malformed call is what was written, or says what is wrong."""
    calls: tuple[ToolCall, ...]
    content: str
    """The text beside the calls, without thinking."""
    stopped: bool
    """Whether the model ended its turn itself."""
    message: Message
    """The assistant message that later renderings of the conversation read."""
    thought: str = ""
    """The thinking that opens the text, marks included."""
    end: int | None = None
    """The id that ended the turn, if it is stopped."""


@dataclass(frozen=True, slots=True)
class Extension:
    """Context tokens that follow an action's tokens or, if ``forked``, replace everything before the next one."""

    tokens: list[int]
    drift: Literal["clean", "realigned", "forked"]
