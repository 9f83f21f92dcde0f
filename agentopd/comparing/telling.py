"""What a comparison says: as Markdown, as sentences, and as plain data."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from agentopd.comparing.crossed import RESAMPLES
from agentopd.comparing.inference import LEVEL, POWER
from agentopd.comparing.whole import Comparison, Pair, Rated
from agentopd.config.differing import value_at
from agentopd.training.loop.spent import COSTS

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
FORMAT = 1
"""Of the plain data."""
METHOD = (
    "An interval is of 95% over seeds and tasks, which are crossed: tasks are resampled, and the mean over seeds is drawn from Student's t "
    "(docs/comparing.md says why). p is corrected for the number of comparisons by Holm; an interval is that of its comparison alone."
)


def tables(found: Comparison) -> Iterator[Table]:
    """Arms with what they cost, then differences."""
    yield (
        ("arm", "seeds", "success", "by seed", *(name.replace("_", " ") for name in COSTS)),
        [_arm(one) for one in found.arms],
    )
    yield (
        ("arm", "minus", "seeds", "difference", "p", "p, Holm", "", "found 4 times of 5"),
        [_pair(pair) for pair in found.pairs],
    )


def _arm(one: Rated) -> Sequence[str]:
    success = f"{100 * one.value:.1f}% [{100 * one.interval.low:.1f}, {100 * one.interval.high:.1f}]"
    by_seed = " ".join(f"{100 * share:.0f}" for share in one.by_seed.values())
    return one.arm.name, str(len(one.by_seed)), success, by_seed, *map(_number, one.costs.values())


def _pair(pair: Pair) -> Sequence[str]:
    least = "" if pair.detectable is None else f"{100 * pair.detectable:.1f} points"
    of = pair.difference.text(), _p(pair.p), _p(pair.adjusted), pair.verdict, least
    return pair.arm, pair.baseline, str(len(pair.seeds)), *of


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _number(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:,.0f}"


def markdown(table: Table) -> str:
    """A table in Markdown."""
    head, rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def sentences(found: Comparison) -> list[str]:
    """What the data cannot tell, and what would; then what to mind."""
    return [*(_untold(pair, found.tasks) for pair in found.pairs if pair.verdict == "not told apart"), *found.notes]


def _untold(pair: Pair, tasks: int) -> str:
    begin = f"{pair.arm} and {pair.baseline} cannot be told apart by these runs"
    if pair.spread is None:
        return begin
    if not pair.difference.value:
        return f"{begin}: their success is equal"
    seen = f"a true difference of the {100 * abs(pair.difference.value):.1f} points that were seen"
    if pair.needed is None:
        return f"{begin}: no number of seeds would find {seen} on {tasks} tasks; raise evaluation.tasks"
    if (more := pair.needed - len(pair.seeds)) <= 0:
        return f"{begin}, though as many find {seen} {100 * POWER:.0f} times of 100"
    return f"{begin}: {pair.needed} seeds, {more} more, find {seen} {100 * POWER:.0f} times of 100"


def to_dict(found: Comparison) -> dict[str, Any]:
    """As JSON can hold it: shares are between 0 and 1, what is not known is null."""
    return {
        "format": FORMAT,
        "method": {"level": LEVEL, "power": POWER, "resamples": RESAMPLES, "text": METHOD},
        "tasks": found.tasks,
        "arms": {one.arm.name: _arm_dict(one, found) for one in found.arms},
        "comparisons": [
            asdict(pair) | {"difference": asdict(pair.difference), "verdict": pair.verdict} for pair in found.pairs
        ],
        "notes": sentences(found),
    }


def _arm_dict(one: Rated, found: Comparison) -> dict[str, Any]:
    settings = sorted({path for pair in found.pairs for path in pair.settings})
    runs = [
        {
            "run": str(run.path),
            "seed": seed,
            "success": one.by_seed[seed],
            "costs": _known(run.costs()),
            "curve": [{"step": p.step, **_known({"episodes": p.episodes}), "success": p.success} for p in run.curve()],
        }
        for seed, run in one.arm.runs.items()
    ]
    return {
        "success": one.value,
        "low": one.interval.low,
        "high": one.interval.high,
        "costs": _known(one.costs),
        "settings": {path: value_at(one.arm.config, path) for path in settings},
        "runs": runs,
    }


def _known(values: Any) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
