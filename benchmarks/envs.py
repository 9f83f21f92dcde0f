"""Environments side by side: what a call of one among many costs more than in a bare loop over the same environments.

    python -m benchmarks.envs              # resumable: what was measured is kept
    python -m benchmarks.envs --limit 1    # at most one more case
    python -m benchmarks.envs --table      # the tables from the stored results

A case ``KIND/N`` steps N environments of a kind, with the same actions on every side: those of the environment's own expert, or
any. The sides take turns, and each repetition gives one number a side: microseconds a call (``step``, or ``reset`` where an episode is over), by
the clock and of processor time. ``bare`` is a loop of ``env.step`` over all in one thread; ``vec-thread`` and
``vec-process`` are ``make_vec``; ``episodes-thread`` and ``episodes-process`` are what ``collect`` plays in, without a model: they also
make a new environment for each episode, as does their own bare loop, ``bare-episodes``. The aim for threads is a bare loop's time, and 15% and 50 microseconds
more. Processor time of worker processes is not counted.

``sleep/N`` are environments whose step sleeps for 100 ms, in milliseconds a step of all; the aim is 1.3 times one.

Results: ``benchmarks/results/envs.json``, with the load of the machine, which others may have used at the same time.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from agentopd.env import TextSpace, expert_action, has_expert, make
from agentopd.isolation.hosts import host
from agentopd.isolation.lane import Isolation
from agentopd.isolation.session import Session
from agentopd.isolation.vector import make_vec
from agentopd.tooling import call
from agentopd.types import Failure, Task
from benchmarks.measured import keep, kept, made_by

RESULTS = Path(__file__).parent / "results" / "envs.json"
KINDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "nothing": ("benchmarks.envs:agentopd-benchmarks/Nothing-v0", {}),
    "calculator": ("agentopd/Calculator-v0", {}),
    "checkout": ("agentopd/Checkout-v0", {}),
    "frozen_lake": ("agentopd/FrozenLake-v0", {}),
    "sql": ("agentopd/Sql-v0", {}),
    "gymnasium": ("FrozenLake-v1", {}),
}
SLEEP = "benchmarks.envs:agentopd-benchmarks/Sleep-v0"
CASES = [*(f"{kind}/256" for kind in KINDS), *(f"calculator/{n}" for n in (1, 4, 16, 64)), "sleep/1", "sleep/256"]
CALLS, REPEATS, LIMIT = 4096, 9, 60.0
Side = Callable[[], None]


class Nothing(gymnasium.Env[str, str]):
    """Says the same for ever."""

    observation_space = action_space = TextSpace()

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Starts."""
        super().reset(seed=seed)
        return "Begin.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Sleeps, where it does."""
        if self.seconds:
            time.sleep(self.seconds)
        return "Go on.", 0.0, False, False, {}


for _id, _seconds in (("agentopd-benchmarks/Nothing-v0", 0.0), ("agentopd-benchmarks/Sleep-v0", 0.1)):
    if _id not in gymnasium.registry:
        gymnasium.register(
            _id, entry_point="benchmarks.envs:Nothing", kwargs={"seconds": _seconds}, disable_env_checker=True
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1000, help="measure at most so many cases")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    arguments = parser.parse_args(argv)
    results = kept(RESULTS)
    missing = [name for name in CASES if name not in results]
    for name in [] if arguments.table else missing[: arguments.limit]:
        kind, _, n = name.partition("/")
        before = os.getloadavg()[0]
        found = slept(int(n)) if kind == "sleep" else measured(*KINDS[kind], int(n), CALLS)
        results[name] = {**made_by(), "cores": os.cpu_count(), "load": [before, os.getloadavg()[0]], **found}
        keep(RESULTS, results)
    print(table(results))


def measured(env_id: str, kwargs: dict[str, Any], n: int, calls: int, repeats: int = REPEATS) -> dict[str, Any]:
    """Microseconds a call of every side, a number for each repetition, by the clock and of processor time."""
    rounds = recorded(env_id, kwargs, n, max(calls // n, 2))
    plays = episodes(env_id, kwargs, n)
    sides: dict[str, Side] = {
        "bare": bare(env_id, kwargs, rounds),
        "bare-episodes": bare_episodes(env_id, kwargs, plays, len(rounds)),
    }
    for isolation in ("thread", "process"):
        sides[f"vec-{isolation}"] = vector(env_id, kwargs, rounds, isolation)
    sides["episodes-thread"] = apart(env_id, kwargs, plays, len(rounds), "thread")
    sides["episodes-process"] = apart(env_id, kwargs, plays, len(rounds), "process")
    spent: dict[str, dict[str, list[float]]] = {name: {"microseconds": [], "cpu": []} for name in sides}
    for repetition in range(-1, repeats):  # the first warms up
        for name in list(sides)[:: 1 if repetition % 2 else -1]:
            begin, cpu = time.perf_counter(), time.process_time()
            sides[name]()
            times = time.perf_counter() - begin, time.process_time() - cpu
            if repetition >= 0:
                for clock, seconds in zip(spent[name].values(), times, strict=True):
                    clock.append(round(seconds / (n * len(rounds)) * 1e6, 2))
    return {"n": n, "rounds": len(rounds), "sides": spent}


def _advance(env: gymnasium.Env[str, str], over: bool, action: str) -> bool:
    if over:
        env.reset()
        return False
    _, _, terminated, truncated, _ = env.step(action)
    return terminated or truncated


def _begun(env_id: str, kwargs: dict[str, Any], n: int) -> list[gymnasium.Env[str, str]]:
    envs = [make(env_id, **kwargs) for _ in range(n)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    return envs


def _action(env: gymnasium.Env[str, str], turn: int) -> str:
    return expert_action(env) if has_expert(env) else call("act", action=("right", "down")[turn % 2])


def recorded(env_id: str, kwargs: dict[str, Any], n: int, rounds: int) -> list[tuple[str, ...]]:
    """What is done in each round, over several episodes."""
    envs, over, actions = _begun(env_id, kwargs, n), [False] * n, []
    for turn in range(rounds):
        actions.append(tuple("" if o else _action(env, turn) for env, o in zip(envs, over, strict=True)))
        over = [_advance(*each) for each in zip(envs, over, actions[-1], strict=True)]
    return actions


def episodes(env_id: str, kwargs: dict[str, Any], n: int) -> list[list[str]]:
    """The actions of an episode a seed."""
    played = []
    for env in _begun(env_id, kwargs, n):
        actions, over = list[str](), False
        while not over and len(actions) < 12:
            actions.append(_action(env, len(actions)))
            over = _advance(env, False, actions[-1])
        played.append(actions)
    return played


def bare(env_id: str, kwargs: dict[str, Any], rounds: Sequence[tuple[str, ...]]) -> Side:
    """A loop over environments that are there."""
    envs = _begun(env_id, kwargs, len(rounds[0]))

    def play() -> None:
        for seed, env in enumerate(envs):
            env.reset(seed=seed)
        over = [False] * len(envs)
        for actions in rounds:
            over = [_advance(*each) for each in zip(envs, over, actions, strict=True)]

    return play


def vector(env_id: str, kwargs: dict[str, Any], rounds: Sequence[tuple[str, ...]], isolation: Any) -> Side:
    """The same by ``make_vec``."""
    envs = make_vec(env_id, len(rounds[0]), isolation=isolation, time_limit=LIMIT, **kwargs)

    def play() -> None:
        envs.reset(seed=0)
        for actions in rounds:
            envs.step(actions)

    return play


def bare_episodes(env_id: str, kwargs: dict[str, Any], plays: Sequence[list[str]], rounds: int) -> Side:
    """A loop that makes each episode's environment."""

    def play() -> None:
        envs: list[Any] = [None] * len(plays)
        for turn in range(rounds):
            for seed, actions in enumerate(plays):
                which = turn % (len(actions) + 1)
                if which == 0:
                    envs[seed] = make(env_id, **kwargs)
                    envs[seed].reset(seed=seed)
                else:
                    envs[seed].step(actions[which - 1])

    return play


def apart(env_id: str, kwargs: dict[str, Any], plays: Sequence[list[str]], rounds: int, isolation: Isolation) -> Side:
    """The same as ``collect`` does it: a lane for each episode."""
    tasks = [Task(env_id, seed, kwargs) for seed in range(len(plays))]

    def play() -> None:
        lanes_of = host(isolation, LIMIT)
        lanes: list[Any] = [None] * len(plays)
        for turn in range(rounds):
            for seed, actions in enumerate(plays):
                which = turn % (len(actions) + 1)
                if which == 0:
                    if lanes[seed] is not None:
                        lanes[seed].close()
                    lanes[seed] = lanes_of.lane(Session(tasks[seed], advice=False, needs_expert=False))
                    lanes[seed].submit("reset")
                else:
                    lanes[seed].submit("step", actions[which - 1])
            for lane in lanes:
                if isinstance(found := lane.result(), Failure):
                    raise RuntimeError(found.message)
        for lane in lanes:
            lane.close()

    return play


def slept(n: int, repeats: int = REPEATS) -> dict[str, Any]:
    """Milliseconds in which ``n`` environments that sleep for 100 ms take a step."""
    found: dict[str, Any] = {"n": n}
    for isolation in ("thread", "process"):
        envs = make_vec(SLEEP, n, isolation=isolation, time_limit=LIMIT)
        envs.reset(seed=0)
        found[isolation] = []
        for _ in range(repeats):
            begin = time.perf_counter()
            envs.step(("",) * n)
            found[isolation].append(round((time.perf_counter() - begin) * 1e3, 1))
        envs.close()
    return found


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the 95% interval of the median by the bootstrap."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(np.asarray(values), (2000, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return statistics.median(values), float(low), float(high)


def table(results: Mapping[str, Any]) -> str:
    """What each side costs more than its bare loop, in microseconds a call, as Markdown."""
    heads = "| case | side | bare, by the clock | more [95%] | aim | bare, processor | more [95%] |"
    lines = [heads, "|---|---|---|---|---|---|---|"]
    for name, result in results.items():
        for side, spent in result.get("sides", {}).items():
            if side.startswith("bare"):
                continue
            base = result["sides"]["bare-episodes" if side.startswith("episodes") else "bare"]
            cells = []
            for clock in ("microseconds", "cpu"):
                more = interval([a - b for a, b in zip(spent[clock], base[clock], strict=True)])
                least = statistics.median(base[clock])
                cells += [f"{least:.0f}", "{:.0f} [{:.0f}, {:.0f}]".format(*more)]
                if clock == "microseconds":
                    cells.append(f"{50 + 0.15 * least:.0f}")
            lines.append(f"| {name} | {side} | {' | '.join(cells)} |")
    if "sleep/1" in results and "sleep/256" in results:
        lines += ["", "| 256 that sleep for 100 ms | one, ms | all, ms | ratio |", "|---|---|---|---|"]
        for isolation in ("thread", "process"):
            one, many = (statistics.median(results[name][isolation]) for name in ("sleep/1", "sleep/256"))
            lines.append(f"| {isolation} | {one:.1f} | {many:.1f} | {many / one:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
