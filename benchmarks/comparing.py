"""How often `agentopd compare` calls equal arms different, and how often it finds what it says it would: simulated runs.

    python -m benchmarks.comparing              # two minutes
    python -m benchmarks.comparing --table      # what the stored results say

Two arms of the same success on average are drawn again and again from a logistic model with normal effects of seeds, of tasks and of their
pairs, some shared by both arms and some of one alone, and are compared at 5%. Beside the shipped interval stand two that are often used: the
pigeonhole bootstrap, which resamples seeds and tasks alike, and the t test over seeds, which takes the tasks for all there are. Then
differences of the size that is said to be found four times of five are drawn, from a normal model whose components are known.
Results: ``benchmarks/results/comparing.json``.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from agentopd.comparing.crossed import Spread, crossed
from agentopd.comparing.inference import LEVEL, detectable
from benchmarks.measured import add, kept

RESULTS = Path(__file__).parent / "results" / "comparing.json"
SIZES = ((3, 64), (3, 200), (5, 64), (5, 200))
EFFECTS: Mapping[str, Mapping[str, Any]] = {
    "chance alone": {"shared": 0.0},
    "shared effects": {},
    "seeds differ": {"of_seed": 1.0},
    "tasks differ": {"of_task": 1.5},
    "pairs differ": {"rest": 2.0},
    "all differ": {"of_seed": 0.5, "of_task": 0.5, "rest": 0.5},
    "easy tasks": {"level": 3.0, "of_seed": 0.5},
}
"""What differs between the arms, in standard deviations of a logit."""
SPREADS = {
    "seeds": Spread(seeds=0.004, tasks=0.0, rest=0.3),
    "tasks": Spread(seeds=0.0, tasks=0.2, rest=0.3),
    "both": Spread(seeds=0.002, tasks=0.1, rest=0.3),
}
COMPARISONS = 1000
RESAMPLES = 400


def main(argv: Sequence[str] | None = None) -> None:
    """Simulates what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=COMPARISONS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print the tables")
    arguments = parser.parse_args(argv)
    for seeds, tasks in () if arguments.table else SIZES:
        for name in (*EFFECTS, *SPREADS):
            if (key := f"{name}/{seeds}/{tasks}") not in kept(arguments.results):
                measure = errors if name in EFFECTS else power
                add(arguments.results, key, measure(name, seeds, tasks, arguments.comparisons))
    print(table(kept(arguments.results)))


def outcomes(
    random: np.random.Generator,
    seeds: int,
    tasks: int,
    arms: int = 2,
    of_seed: float = 0.0,
    of_task: float = 0.0,
    rest: float = 0.0,
    shared: float = 1.0,
    level: float = 0.0,
    gained: float = 0.0,
) -> NDArray[np.bool_]:
    """Successes [arms, S, T] from a logistic model with normal effects of seeds, tasks and their pairs: of an arm alone with the standard
    deviations given, of all arms with ``shared``. ``gained`` is added to all arms but the first."""
    normal = random.standard_normal
    common = shared * (normal((1, seeds, 1)) + normal((1, 1, tasks)) + normal((1, seeds, tasks)))
    own = of_seed * normal((arms, seeds, 1)) + of_task * normal((arms, 1, tasks)) + rest * normal((arms, seeds, tasks))
    logit = level + common + own + gained * (np.arange(arms) > 0)[:, None, None]
    return np.asarray(random.random((arms, seeds, tasks)) < 1 / (1 + np.exp(-logit)))


def normal_table(random: np.random.Generator, spread: Spread, seeds: int, tasks: int) -> NDArray[np.float64]:
    """Numbers around 0 with these components of variance, [S, T]."""
    parts = ((spread.seeds, (seeds, 1)), (spread.tasks, (1, tasks)), (spread.rest, (seeds, tasks)))
    return np.asarray(sum(math.sqrt(variance) * random.standard_normal(shape) for variance, shape in parts))


def pigeonhole(value_S_T: NDArray[np.float64], random: np.random.Generator) -> bool:
    """Whether 0 is outside of the percentile interval of the bootstrap that resamples seeds and tasks alike."""
    drawn_R_S, drawn_R_T = (random.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in value_S_T.shape)
    mean_R = ((drawn_R_S @ value_S_T) * drawn_R_T).sum(axis=1)
    low, high = np.quantile(mean_R, (LEVEL / 2, 1 - LEVEL / 2))
    return bool(low > 0 or high < 0)


def over_seeds(value_S_T: NDArray[np.float64]) -> bool:
    """Whether Student's t test over the means of seeds finds a difference."""
    mean_S = value_S_T.mean(axis=1)
    error = mean_S.std(ddof=1) / math.sqrt(len(mean_S))
    return bool(abs(mean_S.mean()) > student_t.isf(LEVEL / 2, len(mean_S) - 1) * error)


def errors(name: str, seeds: int, tasks: int, comparisons: int) -> dict[str, Any]:
    """How many comparisons of equal arms each way calls a difference."""
    random = np.random.default_rng(0)
    found = np.zeros(3, int)
    for _ in range(comparisons):
        base, arm = outcomes(random, seeds, tasks, **EFFECTS[name]).astype(float)
        difference = arm - base
        found += (crossed(difference).p <= LEVEL, pigeonhole(difference, random), over_seeds(difference))
    return {
        "comparisons": comparisons,
        **dict(zip(("shipped", "pigeonhole", "over_seeds"), found.tolist(), strict=True)),
    }


def power(name: str, seeds: int, tasks: int, comparisons: int) -> dict[str, Any]:
    """How many differences of the size that is said to be found four times of five are found."""
    random, spread = np.random.default_rng(0), SPREADS[name]
    effect = detectable(spread, seeds, tasks)
    found = sum(crossed(effect + normal_table(random, spread, seeds, tasks)).p <= LEVEL for _ in range(comparisons))
    return {"comparisons": comparisons, "effect": round(effect, 4), "shipped": found}


def table(results: Mapping[str, Any]) -> str:
    """Both tables in Markdown, in per cent."""
    sizes = [f"{seeds}/{tasks}" for seeds, tasks in SIZES]

    def cell(name: str, size: str, way: str) -> str:
        one = results.get(f"{name}/{size}")
        return "" if one is None else f"{100 * one[way] / one['comparisons']:.1f}"

    head = " | ".join(f"{size.replace('/', ' seeds, ')} tasks" for size in sizes)
    lines = [f"| equal arms; called different by: shipped, pigeonhole, t over seeds | {head} |", "|---" * 5 + "|"]
    for name in EFFECTS:
        cells = (", ".join(cell(name, size, way) for way in ("shipped", "pigeonhole", "over_seeds")) for size in sizes)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| differences of the size found 4 times of 5; found | {head} |", "|---" * 5 + "|"]
    lines += [
        f"| what varies: {name} | {' | '.join(cell(name, size, 'shipped') for size in sizes)} |" for name in SPREADS
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
