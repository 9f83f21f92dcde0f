"""A law as a JSON file, and what it says of a run that is planned."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentopd.config import Config
from agentopd.errors import ConfigError
from agentopd.evaluation import Interval
from agentopd.planning import Plan
from agentopd.scaling.cost import Split
from agentopd.scaling.laws import LAWS
from agentopd.scaling.runs import Measured
from agentopd.scaling.whole import Fitted, Parameter, Scaling
from agentopd.settings.clock import Clock

FORMAT = 1
"""Of the file."""
_DIGITS = 6
"""That parameters and draws are kept with."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file says."""

    measure: str
    envs: tuple[str, ...]
    """Of the runs that it was fitted to."""
    fitted: Fitted
    ranges: Mapping[str, tuple[float, float]]
    """From where to where variables go in its points."""
    teaching: float | None
    """Teacher tokens per episode of its points; ``None`` where it has no term of them."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a law says of a planned run."""

    measure: str
    x: Mapping[str, float]
    value: float
    interval: Interval
    notes: tuple[str, ...]
    """How far it lies from the points, and what else to mind."""


def to_dict(
    found: Scaling, measured: Sequence[Measured], measure: str, best: Split | None, notes: Sequence[str]
) -> dict[str, Any]:
    """Plain data: what :func:`read` needs, and what a person may want to draw."""
    fitted = found.fitted
    config = measured[0].arm.config
    return {
        "format": FORMAT,
        "measure": measure,
        "law": fitted.law,
        "formula": LAWS[fitted.law].formula,
        "variables": list(fitted.variables),
        "reference": dict(fitted.reference),
        "parameters": {one.name: _parameter(one) for one in fitted.parameters},
        "envs": sorted({one["id"] for one in config["envs"]}),
        "points": [
            {
                "name": one.name,
                **{key: value for key, value in one.x.items() if math.isfinite(value)},
                "y": one.y,
                "by_seed": list(one.y_S),
                "error_of_log": error,
                "law": fitted.value(one.x),
            }
            for one, error in zip(found.points, found.error_M.tolist(), strict=True)
        ],
        "misfit": fitted.misfit,
        "held_out": {"largest": found.held_by, "laws": [asdict(one) | {"wrong": one.wrong} for one in found.heldout]},
        "split": None if best is None else asdict(best),
        "notes": list(notes),
        "theta": _rounded(fitted.theta_P),
        "draws": _rounded(fitted.draw_R_P),
        "bounds": _rounded(np.stack(fitted.bounds)),
    }


def _parameter(one: Parameter) -> dict[str, Any]:
    """Without a number where the points do not determine it."""
    return {"value": one.value if one.determined else None, "low": one.low, "high": one.high}


def _rounded(values: np.ndarray) -> Any:
    return np.round(values, _DIGITS).tolist()


def read(file: str | Path) -> Kept:
    """The law that ``agentopd scaling`` has written.

    Raises:
        ConfigError: The file holds none.
    """
    try:
        plain = json.loads(Path(file).read_bytes())
        if plain["format"] != FORMAT:
            raise ValueError(f"format {plain['format']}, and {FORMAT} is read")
        if plain["law"] not in LAWS:
            raise ValueError(f"its law is {plain['law']}, and a plan takes one of {', '.join(LAWS)}")
        low_P, high_P = np.array(plain["bounds"], np.float64)
        law, variables = LAWS[plain["law"]], tuple(plain["variables"])
        theta_P, draw_R_P = np.array(plain["theta"], np.float64), np.array(plain["draws"], np.float64)
        if draw_R_P.shape[1:] != theta_P.shape or len(theta_P) != len(law.parameters(variables)):
            raise ValueError("its numbers are not those of its law")
        fitted = Fitted(
            plain["law"], variables, plain["reference"], theta_P, draw_R_P, (low_P, high_P), float(plain["misfit"])
        )
        points = plain["points"]
        ranges = {name: (min(one[name] for one in points), max(one[name] for one in points)) for name in variables}
        teaching = None
        if "teacher_tokens" in variables:
            teaching = float(np.exp(np.mean([np.log(one["teacher_tokens"] / one["episodes"]) for one in points])))
        return Kept(plain["measure"], tuple(plain["envs"]), fitted, ranges, teaching)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"--law {file}: no law can be read from it: {error}; give the law.json that agentopd scaling writes"
        ) from error


def expected(law: Kept, config: Config, plan: Plan) -> Expected:
    """What a law says of the run that is planned."""
    episodes = float(config.train.steps * played_a_step(config))
    x = {"parameters": float(plan.setup.student.shape.parameters), "episodes": episodes}
    notes = []
    if law.teaching is not None:
        x["teacher_tokens"] = episodes * law.teaching
        notes.append(f"teachers are taken to tell {law.teaching:,.0f} tokens an episode, as in the law's points")
    for name, (low, high) in law.ranges.items():
        if x[name] > high:
            notes.append(f"{_plain(name)} are {x[name] / high:.3g} times the most of the law's points: extrapolated")
        elif x[name] < low:
            notes.append(f"{_plain(name)} are {x[name] / low:.3g} times the least of the law's points: extrapolated")
    if config.train.budget is not None:
        notes.append("train.budget may end the run before train.steps, and the law is asked about all of them")
    if (own := {one.id for one in config.envs}) != {*law.envs}:
        notes.append(
            f"the law is of {', '.join(law.envs)}, and this run of {', '.join(sorted(own))}: it says nothing of these"
        )
    if law.measure == "error" and law.fitted.value(x) > 1:
        notes.append("the law has more than all tasks fail there, so it does not hold so far from its points")
    return Expected(law.measure, x, law.fitted.value(x), law.fitted.interval(x), tuple(notes))


def played_a_step(config: Config) -> int:
    """The episodes that the first step plays: those that a run counts as spent."""
    sources = config.objective.sources
    tasks = config.tasks_at(Clock(0, config.train.steps))
    return sum(count * sources[name].per_task for name, count in tasks.items() if sources[name].plays)


def _plain(name: str) -> str:
    return name.replace("_", " ")
