"""Two models that write one turn together, token by token."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentopd.acting import Accepted, Mixing
from agentopd.errors import ConfigError
from agentopd.rollout.batch import Row
from agentopd.rollout.engine import TransformersPolicy, generate, require_finite, uniforms_of
from agentopd.rollout.policy import Generation, Policy, Request
from agentopd.rollout.sampling import blended, draw, processed, ranked_within


def joint(actor: str, policy: Policy, guide: str, other: Policy, mixing: Mixing) -> Policy:
    """The policy of ``actor`` with ``guide`` taking part in every token.

    Raises:
        ConfigError: One of the two is no model in this process.
    """
    for name, one in ((actor, policy), (guide, other)):
        if not isinstance(one, TransformersPolicy):
            raise ConfigError(
                f"acting: {actor!r} and {guide!r} write each token together, which takes the logits of both, and {name!r} is "
                f"{type(one).__name__}; name a teacher that is a model here, or choose acting.kind: turns"
            )
    assert isinstance(policy, TransformersPolicy)
    assert isinstance(other, TransformersPolicy)
    return Joint(policy, other, mixing)


class Joint:
    """A policy of two: the guide reads its own context of the same turn. Each keeps its own caches, and is released by itself.

    Both distributions are processed as the actor's are: temperature, top-k, top-p. Where a vocabulary is padded further than the
    other, ids that only one of the two has are left out of both.
    """

    def __init__(self, actor: TransformersPolicy, guide: TransformersPolicy, mixing: Mixing) -> None:
        self._actor = actor
        self._guide = guide
        self._mixing = mixing
        self._guided: dict[int, list[bool]] = {}

    @property
    def version(self) -> int:
        """Of the actor's weights."""
        return self._actor.version

    def act(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation a request, each with a ``guide``.

        Raises:
            PolicyError: The logits of a model are not finite.
        """
        # another seed: what the guide draws must not depend on what it replaces
        asked = [replace(r, tokens=r.guide or (), seed=r.seed ^ 1, guide=None) for r in requests]
        rows = self._actor.rows(requests)
        self._guided = {request.episode: [] for request in requests}
        generate([(self._actor, rows), (self._guide, self._guide.rows(asked))], self._take)
        return [replace(row.generation, guided=self._guided[row.request.episode]) for row in rows]

    def release(self, episodes: Sequence[int]) -> None:
        """These episodes are over, for both."""
        self._actor.release(episodes)
        self._guide.release(episodes)

    def update(self, model: PreTrainedModel, version: int) -> None:
        """The actor's weights have changed."""
        self._actor.update(model, version)

    def _take(self, rows_P_B: Sequence[Sequence[Row]], logits_P_B_V: Sequence[Tensor]) -> None:
        rows, others = rows_P_B
        for logits_B_V in logits_P_B_V:
            require_finite(logits_B_V)
        size = min(logits_B_V.shape[1] for logits_B_V in logits_P_B_V)
        logits_B_V, guide_B_V = (each[:, :size].to(logits_P_B_V[0].device) for each in logits_P_B_V)
        uniform_2_B = torch.stack([uniforms_of(each, logits_B_V.device) for each in (rows, others)])
        token_B, logprob_B, guided_B = self._drawn(logits_B_V, guide_B_V, uniform_2_B)
        drawn = zip(rows, others, token_B.tolist(), logprob_B.tolist(), guided_B.tolist(), strict=True)
        for row, other, token, logprob, guided in drawn:
            if not row.done:
                self._guided[row.request.episode].append(guided)
                for each in (row, other):
                    each.add(token, logprob, self._actor.ends)

    def _drawn(self, logits_B_V: Tensor, guide_B_V: Tensor, uniform_2_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, their log-probabilities, and whether the guide drew them, [B] each."""
        logp_B_V = processed(logits_B_V, self._actor.settings)
        logq_B_V = processed(guide_B_V, self._actor.settings)
        if not isinstance(self._mixing, Accepted):
            mixed_B_V = blended(logp_B_V, logq_B_V, self._mixing.alpha)
            token_B = draw(mixed_B_V, uniform_2_B[0])
            return token_B, _taken(mixed_B_V, token_B), torch.zeros_like(token_B, dtype=torch.bool)
        own_B, other_B = draw(logp_B_V, uniform_2_B[0]), draw(logq_B_V, uniform_2_B[1])
        kept_B = ranked_within(guide_B_V, own_B, self._mixing.k)
        logprob_B = torch.where(kept_B, _taken(logp_B_V, own_B), _taken(logq_B_V, other_B))
        return torch.where(kept_B, own_B, other_B), logprob_B, ~kept_B


def _taken(logprob_B_V: Tensor, token_B: Tensor) -> Tensor:
    return logprob_B_V.gather(1, token_B[:, None])[:, 0]
