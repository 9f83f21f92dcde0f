"""A turn on its way: the tokens that it has so far, and when it is over."""

from collections.abc import Collection
from dataclasses import dataclass, field

from agentopd.chat.budget import Watch
from agentopd.rollout.policy import Generation, Request


@dataclass(slots=True, eq=False, kw_only=True)
class Growing:
    """The turn that one request asks for, token by token."""

    request: Request
    prefilled: int = 0
    """Prompt tokens that this turn must process."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    """Which of the tokens were not chosen."""
    done: bool = False
    _watch: Watch | None = field(init=False)
    _closing: list[int] = field(init=False, default_factory=list)
    """What is yet to be written of what closes a thought."""

    def __post_init__(self) -> None:
        """Begins to watch how long the turn thinks, where that is limited."""
        self._watch = None if self.request.budget is None else Watch(self.request.budget)

    @property
    def closing(self) -> bool:
        """Whether the next token is already known: it closes a thought."""
        return bool(self._closing)

    @property
    def watched(self) -> bool:
        """Whether the next token may be another than the one that is drawn."""
        return self.closing or not (self._watch is None or self._watch.over)

    @property
    def left(self) -> int:
        """How many tokens there may still be."""
        return self.request.max_new_tokens - len(self.tokens)

    def add(self, token: int, logprob: float, ends: Collection[int]) -> None:
        """Takes the next token; one of ``ends`` is the last. Where a thought has used its budget, what closes it comes instead."""
        if self._watch is not None and self._watch.due(self.tokens):
            self._closing = list(self._watch.budget.close)
        forced = bool(self._closing)
        if forced:
            token, logprob = self._closing.pop(0), 0.0
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.forced.append(forced)
        self.done = (token in ends and not forced) or not self.left

    @property
    def generation(self) -> Generation:
        """What came of it."""
        forced = self.forced if any(self.forced) else None
        return Generation(self.tokens, self.logprobs, self.prefilled, forced=forced)
