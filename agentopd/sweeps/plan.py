"""What a sweep is: arms, seeds and a budget, looked at before the first run starts, and kept in its folder."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from agentopd.config import Config, dump, load_config
from agentopd.config.differing import apart, deciding, differences, long_form, value_at, whole, within
from agentopd.config.loading import completed, split
from agentopd.config.shipped import load_yaml, parse
from agentopd.errors import ConfigError
from agentopd.run_files import CONFIG, SWEEP
from agentopd.sweeps.arms import Arm
from agentopd.sweeps.budget import Budget, require_equal
from agentopd.training.loop.folder import write_atomically

FORMAT = 1
"""Of the file :data:`SWEEP`."""
SAME = ("seed", "env", "envs", "evaluation")
"""What no arm may have of its own: it decides the tasks that are played, in training and on the panel."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep that may start."""

    source: str
    """Where the configuration came from."""
    overrides: Sequence[str]
    """Those of all arms."""
    arms: Sequence[Arm]
    seeds: Sequence[int]
    budget: Budget | None
    also: Sequence[str]
    """What may differ though no arm asks for it."""
    configs: Mapping[str, Config]
    """Of each arm, with the first seed."""


def planned(
    source: str | Path,
    overrides: Sequence[str],
    arms: Sequence[Arm],
    seeds: int = 1,
    budget: Budget | None = None,
    also: Sequence[str] = (),
) -> Plan:
    """Reads the configuration of every arm.

    Args:
        source: As for :func:`agentopd.load_config`.
        overrides: Of all arms.
        arms: What they have of their own.
        seeds: How many; the configuration's own is the first.
        budget: What each run may take; by default ``train.steps`` bounds it.
        also: Settings that may differ though no arm asks for them, since they follow from what is asked.

    Raises:
        ConfigError: A setting is wrong, which is said for all arms; or arms would play different tasks, or take different budgets; or they
            differ in more than was asked.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: give 1 or more")
    asked = list(dict.fromkeys(key for arm in arms for key in arm.keys))
    if other := [key for key in asked if within(key, SAME)]:
        raise ConfigError(
            f"{other[0]}: arms play the same tasks with the same seeds, so it cannot differ from arm to arm; set it for all of them, and the number "
            "of seeds by --seeds"
        )
    configs = _configs(source, overrides, arms)
    require_equal(configs, asked, budget)
    if budget is not None:
        configs = _configs(source, overrides, [_bounded(arm, configs[arm.name], budget) for arm in arms])
    plain = {name: _plain(config) for name, config in configs.items()}
    _require_asked(plain, _allowed(asked, also, budget))
    _require_different(plain)
    first = next(iter(configs.values())).seed
    return Plan(str(source), tuple(overrides), tuple(arms), range(first, first + seeds), budget, tuple(also), configs)


def _allowed(asked: Iterable[str], also: Sequence[str], budget: Budget | None) -> list[str]:
    """The keys in which arms may differ; a budget in episodes makes steps of them."""
    return [*asked, *also, *(["train.steps"] if budget is not None and budget.unit == "episodes" else [])]


def _bounded(arm: Arm, config: Config, budget: Budget) -> Arm:
    return Arm(arm.name, (*arm.overrides, *budget.overrides(config)))


def _configs(source: str | Path, overrides: Sequence[str], arms: Sequence[Arm]) -> dict[str, Config]:
    configs, wrong = dict[str, Config](), dict[str, str]()
    for arm in arms:
        try:
            configs[arm.name] = load_config(source, [*overrides, *arm.overrides])
        except ConfigError as error:
            wrong[arm.name] = str(error)
    if len(set(wrong.values())) == 1 and len(wrong) == len(arms):
        raise ConfigError(next(iter(wrong.values())))
    if wrong:
        raise ConfigError("; ".join(f"arm {name}: {why}" for name, why in wrong.items()))
    return configs


def _require_asked(plain: Mapping[str, Mapping[str, Any]], asked: Sequence[str]) -> None:
    """Raises ConfigError where arms differ in a setting that nobody asked for."""
    roots = [whole(long_form(key)) for key in asked]
    beyond = [path for path in apart([*plain.values()]) if not within(path, roots)]
    if beyond:
        told = "; ".join(
            f"{path} ({', '.join(f'{name}: {json.dumps(value_at(one, path))[:60]}' for name, one in plain.items())})"
            for path in beyond
        )
        raise ConfigError(
            f"arms differ in more than was asked: {told}; set it alike for all of them, or add {' '.join(f'--also {path}' for path in beyond)} where the difference is "
            "meant"
        )


def _require_different(plain: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ConfigError where two arms are the same."""
    for (name, one), (other, another) in combinations(plain.items(), 2):
        if one == another:
            raise ConfigError(f"arms {name} and {other} are the same configuration; leave one of them out")


def _plain(config: Config) -> dict[str, Any]:
    """What decides a run of it beside the seed, as it is read from its file."""
    return deciding(parse(dump(config), "config"))


def joined(plan: Plan, folder: Path) -> dict[str, Any]:
    """What :data:`SWEEP` says of the plan and of all that earlier calls have asked of the same sweep. It writes nothing.

    Raises:
        ConfigError: The folder holds an arm of this name with another configuration, or another sweep.
    """
    before = _before(folder)
    for name, config in plan.configs.items():
        file = folder / name / CONFIG
        if file.exists():
            _require_same(file, config)
    arms = {arm.name: {"overrides": [*arm.overrides], "config": f"{arm.name}/{CONFIG}"} for arm in plan.arms}
    now = {
        "format": FORMAT,
        "config": plan.source,
        "overrides": [*plan.overrides],
        "budget": None if plan.budget is None else asdict(plan.budget),
        "also": sorted({*before.get("also", ()), *plan.also}),
        "seeds": sorted({*before.get("seeds", ()), *plan.seeds}),
        "arms": {**before.get("arms", {}), **arms},
    }
    if before:
        _require_alike(before, now, plan, folder)
    return now


def keep(plan: Plan, folder: Path) -> None:
    """Writes the plan and the configuration of each arm, beside what is there.

    Raises:
        ConfigError: As :func:`joined` does.
    """
    now = joined(plan, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / SWEEP, json.dumps(now, indent=2) + "\n")  # first: with it a folder can be gone on with
    for name, config in plan.configs.items():
        (folder / name).mkdir(exist_ok=True)
        if not (folder / name / CONFIG).exists():
            write_atomically(folder / name / CONFIG, dump(config))


def _require_alike(before: Mapping[str, Any], now: Mapping[str, Any], plan: Plan, folder: Path) -> None:
    """Raises ConfigError where arms that are added to a sweep take another budget than those there, or differ in more than was asked."""
    if before["budget"] != now["budget"]:
        raise ConfigError(
            f"output: the runs in {folder} have the budget {before['budget']}, and this asks for {now['budget']}; choose another --output"
        )
    files = {name: folder / name / CONFIG for name in before["arms"]}
    there = {name: load_config(file) for name, file in files.items() if file.exists()}
    asked = list(dict.fromkeys(split(text)[0] for arm in now["arms"].values() for text in arm["overrides"]))
    every = {**there, **plan.configs}
    require_equal(every, asked, plan.budget)
    _require_asked({name: _plain(config) for name, config in every.items()}, _allowed(asked, now["also"], plan.budget))


def _before(folder: Path) -> dict[str, Any]:
    """What the folder has of earlier calls."""
    file = folder / SWEEP
    if not file.exists():
        return {}
    try:
        before: dict[str, Any] = json.loads(file.read_bytes())
        known = before["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} cannot be read: {error}; restore it from a copy, or choose another --output"
        ) from error
    if not known:
        raise ConfigError(f"{file} is of format {before['format']}, and this reads {FORMAT}; choose another --output")
    return before


def _require_same(file: Path, config: Config) -> None:
    was, now = completed(load_yaml(file)), completed(parse(dump(config), "config"))
    for path, old, new in differences({**was, "seed": now["seed"]}, now):
        raise ConfigError(
            f"output: {file.parent} was begun with {path}={old!r}, and this asks for {new!r}; choose another --output, or another name for the arm"
        )
