"""The loss of each recipe as its paper has it: plain loops over tokens, in float64, with nothing of the library."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import mean, pstdev

import numpy as np
import torch
from recipe_cases import SPECIAL, Token, World
from recipe_parts import (
    Phi,
    Tokens,
    adaptive,
    aligned,
    alpha_beta,
    average,
    by,
    capped,
    clipped,
    entropy,
    forward,
    gap,
    grpo,
    jsd,
    kl,
    likelihood,
    mixed,
    normalised_reverse,
    of,
    over_episodes,
    over_tokens,
    over_turns,
    own,
    per_entry,
    per_turn,
    ratio,
    relative,
    rest,
    reverse,
    scaled,
    shift,
    soft_or,
    top,
    truncated,
)
from torch import Tensor


def simple(
    over: Callable[[Tokens, Phi], Tensor], phi: Phi, tokens: Callable[[World], list[Token]] = own
) -> Callable[[World], Tensor]:
    return lambda world: over(tokens(world), phi)


def said(world: World) -> list[Token]:
    return [t for t in own(world) if t.y not in SPECIAL]


def aopd(world: World) -> Tensor:
    def phi(t: Token) -> Tensor:
        p, q = rest(16, t.q["teacher"], t.p, t.q["teacher"])
        return clipped(t, gap(t)) if gap(t) > 0 else kl(q, p)

    return over_tokens(own(world), phi)


def atod(world: World) -> Tensor:
    tokens = own(world)
    outcome, weight = relative(tokens), dict[object, float]()
    for one in by(tokens, lambda t: t.episode):
        d, h = (scaled(per_turn(one, number)) for number in (lambda t: abs(gap(t)), lambda t: -t.old))
        weight |= {key: soft_or(d[key], h[key]) for key in d}

    def phi(t: Token) -> Tensor:
        distilled = (1 - 0.9 * world.done) * weight[t.episode, t.turn] * gap(t)
        return clipped(t, distilled + (1 + world.done) * outcome(t))

    return over_episodes(tokens, phi)


def dagger(world: World) -> Tensor:
    return over_turns(of(world, source="corrected"), likelihood)


def distillm_2(world: World) -> Tensor:
    def skews(tokens: Tokens, sign: float) -> dict[int, float]:
        gaps = {}
        for one in by(tokens, lambda t: t.episode):
            q, p = math.exp(mean(t.logq() for t in one)), math.exp(mean(t.now for t in one))
            gaps[one[0].episode] = sign * (q - p)
        c = max(mean(gaps.values()), 0.0)
        return {e: min(max(1 - 0.9 * c / (g + 1e-5), 0.01), 0.1) if g > 0 else 0.1 for e, g in gaps.items()}

    shown, played = of(world, source="shown"), of(world, source="own")
    a, b = skews(shown, 1.0), skews(played, -1.0)
    teachers = over_tokens(shown, lambda t: kl(t.q["teacher"], mixed(t.q["teacher"], t.p, a[t.episode])))
    return teachers + over_tokens(played, lambda t: kl(t.p, mixed(t.p, t.q["teacher"], b[t.episode])))


def eopd(world: World) -> Tensor:
    def unsure(t: Token) -> Tensor:
        p, q = top(16, t.q["teacher"], t.p, t.q["teacher"])
        return float(entropy(t.q["teacher"]) > 0.8) * kl(q.log_softmax(-1), p)

    return over_tokens(own(world), lambda t: clipped(t, gap(t)) + unsure(t))


def g_opd(t: Token) -> Tensor:
    advantage = 1.25 * (t.logq() - t.logq("reference")) - (t.old - t.logq("reference"))
    return -min(math.exp(t.now - t.old), 5.0) * advantage * t.logp


def gad(world: World) -> Tensor:
    if world.step < 20:
        return over_episodes(of(world, "expert"), likelihood)
    tokens = [replace(t, reward=t.judged) for t in own(world)]
    above = relative(tokens)
    return over_episodes(tokens, lambda t: clipped(t, above(t)))


def guided_opd(world: World) -> Tensor:
    played = over_tokens(own(world), lambda t: clipped(t, gap(t)))
    return played + over_tokens(of(world, "teacher"), likelihood)


def iw_opd(world: World) -> Tensor:
    losses = []
    for one in by(own(world), lambda t: t.episode):
        apart = [abs(shift(t)) for t in one]
        for i, t in enumerate(one):
            weight = 1 + 0.5 * (1 - sum(apart[:i]) / sum(apart))
            losses.append(weight * -min(math.exp(t.now - t.old), 5.0) * shift(t) * t.logp)
    return average(losses)


def kdrl(world: World) -> Tensor:
    tokens, reward = grpo(world)
    b = 5e-3 - 4e-3 * world.done
    return over_tokens(tokens, lambda t: reward(t) + b * 0.5 * (t.logp - t.logq()).square())


def luffy(world: World) -> Tensor:
    advantage = relative(world.tokens)

    def phi(t: Token) -> Tensor:
        p = t.logp.exp()
        return -advantage(t) * (p / (p + 0.1) if t.actor == "expert" else t.logp)

    return over_tokens(world.tokens, phi)


def minillm(world: World) -> Tensor:
    tokens, returns = of(world, source="own"), []
    for one in by(tokens, lambda t: t.episode):
        rewards = [min(max(shift(t), -100.0), 100.0) for t in one]
        returns += [sum(0.95**i * r for i, r in enumerate(rewards[k:])) / len(rewards[k:]) for k in range(len(one))]
    centre, spread = mean(returns), pstdev(returns)
    advantage = dict(zip(map(id, tokens), returns, strict=True))

    def phi(t: Token) -> Tensor:
        rho = min(math.exp(t.now - t.old), 2.0)
        return -rho * (advantage[id(t)] - centre) / spread * t.logp + reverse()(t)

    return over_tokens(tokens, phi) + 0.5 * over_tokens(of(world, source="shown"), likelihood)


def mopd(world: World) -> Tensor:
    outcome = relative(own(world), deviation=False)

    def phi(t: Token) -> Tensor:
        w = math.exp(t.now - t.old)
        return -(w if 0.5 <= w <= 5 else 0.0) * (shift(t) + outcome(t)) * t.logp

    return over_tokens(own(world), phi)


def openclaw(t: Token) -> Tensor:
    return ratio(t, t.reward + t.logq("shown") - t.old)


def opid(world: World) -> Tensor:
    tokens = own(world)
    outcome = relative(tokens)
    return over_tokens(tokens, lambda t: clipped(t, outcome(t) + 0.001 * shift(t, "shown"), old=t.now))


def paced(world: World) -> Tensor:
    won = {
        one[0].task: mean(e[0].success for e in by(one, lambda t: t.episode))
        for one in by(own(world), lambda t: t.task)
    }

    def phi(t: Token) -> Tensor:
        return won[t.task] * (1 - won[t.task]) * ((1 - world.done) * forward()(t) + world.done * reverse()(t))

    return over_tokens(own(world), phi)


def poweropd(t: Token) -> Tensor:
    return ratio(t, math.exp(t.logq()) ** 5 - math.exp(t.old) ** 5)


def scope(world: World) -> Tensor:
    def weights(tokens: Tokens, number: Callable[[Token], float], power: float) -> dict[int, float]:
        """Of each episode: its perplexity to a power, over the mean of its siblings."""
        found: dict[int, float] = {}
        for task in by(tokens, lambda t: t.task):
            perplexity = {
                one[0].episode: math.exp(-mean(map(number, one))) ** power for one in by(task, lambda t: t.episode)
            }
            found |= {episode: one / mean(perplexity.values()) for episode, one in perplexity.items()}
        return found

    won, lost = ([t for t in own(world) if t.success == which] for which in (True, False))
    w, v = weights(won, lambda t: t.now, 1.0), weights(lost, Token.logq, -1.0)
    path = over_tokens(lost, lambda t: v[t.episode] * clipped(t, shift(t), old=t.now))
    return over_tokens(won, lambda t: -w[t.episode] * t.logp) + path


def score(world: World) -> Tensor:
    return over_turns([t for t in of(world, "student", "expert") if t.success], likelihood)


def sdft(t: Token) -> Tensor:
    p, q = top(100, t.p, t.p, t.q["shown"])
    return truncated(t, jsd(p.log_softmax(-1), q.log_softmax(-1)))


def sod(world: World) -> Tensor:
    tokens = own(world)
    outcome, apart = relative(tokens), per_turn(tokens, lambda t: abs(shift(t)))

    def phi(t: Token) -> Tensor:
        weight = min((apart[t.episode, 0] + 1e-6) / (apart[t.episode, t.turn] + 1e-6), 1.2)
        return clipped(t, outcome(t) + weight * shift(t), old=t.now, high=1.28)

    return over_tokens(tokens, phi)


def spin(world: World) -> Tensor:
    losses = []
    for task in by(world.tokens, lambda t: t.task):
        moved = defaultdict(list)
        for one in by(task, lambda t: t.episode):
            moved[one[0].actor].append(torch.stack([t.logp - t.logq("previous") for t in one]).sum())
        losses += [-(0.1 * (a - b)).sigmoid().log() for a, b in zip(moved["expert"], moved["previous"], strict=True)]
    return average(losses)


def taid(world: World) -> Tensor:
    share = world.adapted or 0.4
    return over_tokens(
        own(world), lambda t: kl(((1 - share) * t.p.detach() + share * t.q["teacher"]).log_softmax(-1), t.p)
    )


def tip(world: World) -> Tensor:
    tokens = own(world)
    h, d = (
        scaled(dict(enumerate(map(number, tokens))))
        for number in (lambda t: float(entropy(t.p)), lambda t: abs(shift(t)))
    )
    ordered = sorted(range(len(tokens)), key=lambda i: -soft_or(h[i], d[i]))
    return over_tokens([tokens[i] for i in ordered[: len(tokens) // 2]], reverse())


def turnopd(world: World) -> Tensor:
    tokens = own(world)
    return (1 - world.done) * over_tokens(tokens, reverse()) + world.done * over_turns(tokens, reverse())


def veto(world: World) -> Tensor:
    beta = 0.8 * (1 - world.done)
    return over_tokens(own(world), lambda t: kl((t.q["teacher"] + beta * t.p.detach()).log_softmax(-1), t.p))


def vopd(t: Token) -> Tensor:
    return -(gap(t) + float(kl(t.p, t.q["teacher"]))) * t.logp


def beside_outcome(world: World, second: Phi, share: float) -> Tensor:
    tokens, reward = grpo(world)
    return over_tokens(tokens, lambda t: reward(t) + share * second(t))


def reopold(world: World) -> Tensor:
    unsure = [t for t in own(world) if entropy(t.p) > 0.1]
    return over_tokens(unsure, lambda t: clipped(t, min(max(gap(t), -5.0), 5.0)))


def sage_opd(world: World) -> Tensor:
    tokens = own(world)
    surprisal = per_turn(tokens, lambda t: -t.logq())

    def weight(t: Token) -> float:
        return float(surprisal[t.episode, t.turn] > 0.5) * math.exp(-float(entropy(t.q["teacher"])))

    return over_tokens(tokens, lambda t: weight(t) * clipped(t, gap(t))) / mean(map(weight, tokens))


def stable_opd(world: World) -> Tensor:
    played = of(world, "student", source="own")
    near = over_episodes(played, lambda t: reverse()(t) + 0.1 * reverse("reference")(t))
    return near + 0.5 * over_episodes(of(world, source="shown"), likelihood)


def ovd(world: World) -> Tensor:
    """Teachers' rewards are kept in single precision."""
    told = [replace(t, reward=float(np.float32(t.reward))) for t in world.tokens]
    return over_episodes(*grpo(replace(world, tokens=told)))


FORMULAS: Mapping[str, Callable[[World], Tensor]] = {
    "abkd": simple(over_tokens, alpha_beta),
    "agentopd": simple(over_turns, forward()),
    "akl": simple(over_tokens, adaptive),
    "aligndistil": simple(over_tokens, aligned),
    "aopd": aopd,
    "atod": atod,
    "dagger": dagger,
    "distillm": simple(over_tokens, lambda t: kl(t.q["teacher"], mixed(t.q["teacher"], t.p, 0.1)), of),
    "distillm-2": distillm_2,
    "eopd": eopd,
    "f-distill": simple(over_tokens, lambda t: 0.5 * (t.p.exp() - t.q["teacher"].exp()).abs().sum(), of),
    "g-opd": simple(over_tokens, g_opd),
    "gad": gad,
    "gkd": simple(over_tokens, lambda t: jsd(t.p, t.q["teacher"]), of),
    "gold": simple(over_tokens, lambda t: jsd(t.p, t.q["teacher"])),
    "grpo": lambda world: over_episodes(*grpo(world)),
    "guided-opd": guided_opd,
    "iw-opd": iw_opd,
    "kdrl": kdrl,
    "lightning-opd": simple(over_tokens, lambda t: truncated(t, -shift(t) * t.logp)),
    "luffy": luffy,
    "minillm": minillm,
    "mopd": mopd,
    "opcd": simple(over_tokens, normalised_reverse(256, True, "shown")),
    "openclaw-opd": simple(over_tokens, openclaw),
    "opid": opid,
    "opsd": simple(over_tokens, capped),
    "ovd": ovd,
    "paced": paced,
    "pi-distill": lambda world: beside_outcome(world, reverse("shown"), 0.1),
    "poweropd": simple(over_tokens, poweropd),
    "prefix-opd": simple(over_tokens, reverse()),
    "reopold": reopold,
    "rethinking-opd": simple(over_tokens, normalised_reverse(16, True, "teacher")),
    "retireopd": lambda world: beside_outcome(world, reverse("shown"), 0.0 if world.adapted else 1.0),
    "revisiting-dagger": dagger,
    "revisiting-opd": simple(over_tokens, normalised_reverse(32, False, "teacher"), said),
    "sage-opd": sage_opd,
    "scope": scope,
    "score": score,
    "sdft": simple(over_tokens, sdft),
    "sdpo": simple(over_tokens, lambda t: truncated(t, jsd(t.p, t.q["shown"]))),
    "seqkd": simple(over_tokens, likelihood, of),
    "sft": simple(over_tokens, likelihood, of),
    "skd": simple(over_tokens, forward(), of),
    "skill-sd": lambda world: beside_outcome(world, lambda t: truncated(t, reverse("shown")(t)), 0.1),
    "sod": sod,
    "spin": spin,
    "stable-opd": stable_opd,
    "taid": taid,
    "tcod-b2f": simple(over_episodes, lambda t: clipped(t, shift(t), old=t.now)),
    "tcod-f2b": simple(over_episodes, lambda t: clipped(t, shift(t), old=t.now)),
    "thinking-machines": simple(over_tokens, lambda t: ratio(t, gap(t))),
    "tip": tip,
    "todi": simple(over_tokens, per_entry),
    "turnopd": turnopd,
    "uld": simple(over_tokens, lambda t: (t.p.exp().sort().values - t.q["teacher"].exp().sort().values).abs().sum()),
    "veto": veto,
    "vopd": simple(over_tokens, vopd),
}
"""The loss of each recipe."""
SURROGATES = {"luffy", "spin"}
"""Recipes whose loss is another number than the formula, of the same gradient."""
NO_FORMULA: Mapping[str, str] = {}
"""Recipes without a loss in closed form, and why."""
