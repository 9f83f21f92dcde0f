"""How long a turn may think: when a thought is to be closed, and with which tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agentopd.chat.thinking import THOUGHT_CLOSE, THOUGHT_OPEN

MARK_TOKENS = 32
"""The mark that opens thinking, and white space around it, has no more tokens."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one turn may think."""

    tokens: int
    """Behind the mark that opens the thought."""
    close: tuple[int, ...]
    """What closes it."""
    opened: bool
    """Whether the prompt opened it; else the model does, with the mark as the first that it writes, or it does not think."""
    text: Callable[[Sequence[int]], str] = field(compare=False, repr=False)
    """Of tokens."""


@dataclass(slots=True)
class Watch:
    """Follows one turn, token by token."""

    budget: Budget
    begin: int | None = None
    """Where the thought begins, once that is known."""
    over: bool = False
    """Whether nothing is left to be decided."""

    def __post_init__(self) -> None:
        """Begins where the prompt opened the thought."""
        self.begin = 0 if self.budget.opened else None

    def due(self, tokens: Sequence[int]) -> bool:
        """Whether the thought of a turn that has come so far is to be closed now; so once at most."""
        if self.begin is None and not self.over:
            self._look(tokens)
        if self.over or self.begin is None or len(tokens) - self.begin < self.budget.tokens:
            return False
        self.over = True
        return THOUGHT_CLOSE not in self.budget.text(tokens[self.begin :])

    def _look(self, tokens: Sequence[int]) -> None:
        """Whether the turn opens with a thought, as far as that can be told."""
        text = self.budget.text(tokens).lstrip()
        if text.startswith(THOUGHT_OPEN):
            self.begin = len(tokens)
        elif not THOUGHT_OPEN.startswith(text) or len(tokens) > MARK_TOKENS:
            self.over = True


def thought_size(tokens: Sequence[int], opened: bool, text: Callable[[Sequence[int]], str]) -> int:
    """How many tokens of a turn are the thought that opens it, marks included; all of one that was never closed.

    Args:
        tokens: Of the turn.
        opened: Whether the prompt opened the thought.
        text: Gives that of tokens.
    """
    whole = text(tokens)
    if not (opened or whole.lstrip().startswith(THOUGHT_OPEN)):
        return 0
    if THOUGHT_CLOSE not in whole:
        return len(tokens)
    low, high = 0, len(tokens)  # the mark is in the text of the first `high` tokens, and not in that of the first `low`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if THOUGHT_CLOSE in text(tokens[:middle]) else (middle, high)
    return high
