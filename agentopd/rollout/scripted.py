"""A policy that plays what it is given: experts and tests."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from agentopd.errors import PolicyError
from agentopd.rollout.policy import Generation, Request

Play = Callable[[Request], Sequence[int]]


class ScriptedPolicy:
    """Plays a request's script; without one, calls ``play``, or takes the next of the listed turns of that episode.

    Tokens of ``play`` beyond ``max_new_tokens`` are cut, as an engine would.
    """

    def __init__(self, play: Play | Sequence[Sequence[int]] | None = None) -> None:
        self.version = 0
        self._play = play
        self._turn: dict[int, int] = {}

    def act(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation a request, every log-probability 0.

        Raises:
            PolicyError: A request has no script and nothing is left to play.
        """
        return [_generation(self._tokens(request)) for request in requests]

    def release(self, episodes: Sequence[int]) -> None:
        """Forgets how far these episodes have come."""
        for episode in episodes:
            self._turn.pop(episode, None)

    def update(self, model: PreTrainedModel, version: int) -> None:
        """Notes the version; there are no weights and no cache."""
        self.version = version

    def _tokens(self, request: Request) -> Sequence[int]:
        if request.script is not None:
            return request.script
        if callable(self._play):
            return self._play(request)[: request.max_new_tokens]
        turn = self._turn.get(request.episode, 0)
        if self._play is None or turn >= len(self._play):
            raise PolicyError(f"the scripted policy has no tokens for turn {turn} of episode {request.episode}")
        self._turn[request.episode] = turn + 1
        return self._play[turn][: request.max_new_tokens]


def _generation(tokens: Sequence[int]) -> Generation:
    return Generation(list(tokens), [0.0] * len(tokens), prefilled=0)
