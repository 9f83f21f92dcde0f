"""What the formulas of recipes are made of: averages, divergences of a token, policy gradients, groups; plain loops, in float64."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, pstdev
from typing import Any

import torch
from recipe_cases import Token, World
from torch import Tensor

Phi = Callable[[Token], Tensor]
Tokens = Sequence[Token]


def by(tokens: Tokens, key: Callable[[Token], object]) -> list[list[Token]]:
    groups = defaultdict(list)
    for token in tokens:
        groups[key(token)].append(token)
    return list(groups.values())


def average(numbers: Sequence[Tensor]) -> Tensor:
    return torch.stack([*numbers]).sum() / len(numbers)


def over_tokens(tokens: Tokens, phi: Phi) -> Tensor:
    return average([phi(token) for token in tokens])


def over_episodes(tokens: Tokens, phi: Phi) -> Tensor:
    return average([over_tokens(one, phi) for one in by(tokens, lambda token: token.episode)])


def over_turns(tokens: Tokens, phi: Phi) -> Tensor:
    """The mean over episodes of the mean over turns of the mean over tokens."""
    episodes = by(tokens, lambda token: token.episode)
    return average([average([over_tokens(turn, phi) for turn in by(one, lambda t: t.turn)]) for one in episodes])


def of(world: World, *actors: str, source: str = "") -> list[Token]:
    """The tokens of actors, or of all, in a source, or in all."""
    return [t for t in world.tokens if t.actor in (actors or (t.actor,)) and t.source == (source or t.source)]


def own(world: World) -> list[Token]:
    return of(world, "student")


# Divergences of log-probabilities


def kl(one: Tensor, other: Tensor) -> Tensor:
    return (one.exp() * (one - other)).sum()


def mixed(one: Tensor, other: Tensor, share: float) -> Tensor:
    return (share * one.exp() + (1 - share) * other.exp()).log()


def jsd(p: Tensor, q: Tensor) -> Tensor:
    m = mixed(p, q, 0.5)
    return 0.5 * kl(p, m) + 0.5 * kl(q, m)


def entropy(logs: Tensor) -> Tensor:
    return -(logs.exp() * logs).sum()


def top(k: int, of: Tensor, *logs: Tensor) -> list[Tensor]:
    """The entries of the k largest of ``of``."""
    ids = of.detach().argsort(descending=True)[:k]
    return [one[ids] for one in logs]


def rest(k: int, of: Tensor, *logs: Tensor) -> list[Tensor]:
    """As :func:`top`, with one entry for all others."""
    ids = of.detach().argsort(descending=True)
    return [torch.cat([one[ids[:k]], one[ids[k:]].exp().sum().log()[None]]) for one in logs]


def forward(name: str = "teacher") -> Phi:
    return lambda t: kl(t.q[name], t.p)


def reverse(name: str = "teacher") -> Phi:
    return lambda t: kl(t.p, t.q[name])


def likelihood(t: Token) -> Tensor:
    return -t.logp


def alpha_beta(t: Token) -> Tensor:
    p, q = t.p.exp(), t.q["teacher"].exp()
    return -4 * (q.sqrt() * p.sqrt() - 0.5 * q - 0.5 * p).sum()


def adaptive(t: Token) -> Tensor:
    p, q = t.p.exp(), t.q["teacher"].exp()
    head = tail = below = 0.0
    for v in q.argsort().tolist():
        below += float(q[v])
        gap = abs(float(q[v] - p[v]))
        head, tail = (head, tail + gap) if below <= 0.5 else (head + gap, tail)
    return (head * forward()(t) + tail * reverse()(t)) / (head + tail)


def aligned(t: Token) -> Tensor:
    q, r = t.q["teacher"], t.q["reference"]
    w = float((q.exp() - r.exp()).abs().sum()) + 1e-3
    return kl(t.p, (q + w * (q - r)).log_softmax(-1)) / w


def per_entry(t: Token) -> Tensor:
    p, q = t.p, t.q["teacher"]
    w = (q - p.detach()).sigmoid()
    return (w * q.exp() * (q - p) + (1 - w) * p.exp() * (p - q)).sum()


def normalised_reverse(k: int, of_student: bool, name: str) -> Phi:
    def phi(t: Token) -> Tensor:
        p, q = top(k, t.p if of_student else t.q[name], t.p, t.q[name])
        return kl(p.log_softmax(-1), q.log_softmax(-1))

    return phi


def capped(t: Token) -> Tensor:
    q = t.q["shown"]
    return (q.exp() * (q - t.p)).clamp(max=1.0).sum()


def truncated(t: Token, divergence: Tensor) -> Tensor:
    return min(math.exp(t.now - t.old), 2.0) * divergence


# Policy gradients


def ratio(t: Token, advantage: float, old: float | None = None) -> Tensor:
    return -(t.logp - (t.old if old is None else old)).exp() * advantage


def clipped(t: Token, advantage: float, old: float | None = None, high: float = 1.2) -> Tensor:
    rho = (t.logp - (t.old if old is None else old)).exp()
    return -torch.minimum(rho * advantage, rho.clamp(0.8, high) * advantage)


def gap(t: Token) -> float:
    """log q - log p of the policy that acted."""
    return t.logq() - t.old


def shift(t: Token, name: str = "teacher") -> float:
    """log q - log p of the student now."""
    return t.logq(name) - t.now


def relative(tokens: Tokens, deviation: bool = True) -> Callable[[Token], float]:
    """A token's reward against those of the episodes of its task."""
    rewards = {
        task[0].task: [one[0].reward for one in by(task, lambda t: t.episode)] for task in by(tokens, lambda t: t.task)
    }
    return lambda t: (t.reward - mean(rewards[t.task])) / (pstdev(rewards[t.task]) + 1e-6 if deviation else 1.0)


def grpo(world: World) -> tuple[list[Token], Phi]:
    tokens = own(world)
    advantage = relative(tokens)
    return tokens, lambda t: clipped(t, advantage(t))


def per_turn(tokens: Tokens, number: Callable[[Token], float]) -> dict[tuple[int, int], float]:
    return {(one[0].episode, one[0].turn): mean(map(number, one)) for one in by(tokens, lambda t: (t.episode, t.turn))}


def scaled(numbers: Mapping[Any, float]) -> dict[Any, float]:
    low, high = min(numbers.values()), max(numbers.values())
    return {key: (x - low) / (high - low) if high - low >= 1e-8 else 0.5 for key, x in numbers.items()}


def soft_or(one: float, other: float) -> float:
    return 1 - (1 - one) * (1 - other)
