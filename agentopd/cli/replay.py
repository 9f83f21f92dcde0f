"""Play recorded episodes again, and learn a step again: is everything what it was? Exit status 1 where something is not.

examples:
  agentopd replay runs/first
  agentopd replay runs/first --step 4
  agentopd replay runs/expert --where env=agentopd/Sql-v0 success=false --isolation process --json
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import agentopd.cli.chosen as chosen

if TYPE_CHECKING:
    from agentopd.records import Records
    from agentopd.replaying import Replay
    from agentopd.replaying.verdicts import Status
    from agentopd.training.replaying.step import StepReplay

LISTED = 20
"""Episodes that a table lists; JSON holds all."""
STATUSES: "tuple[Status, ...]" = ("same", "differs", "unplayable")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("records", help="a run folder, or a records folder")
    chosen.add_step(parser, "; of a run also learned from again, where a checkpoint was made before it")
    chosen.add_where(parser)
    parser.set_defaults(overrides=[])
    parser.add_argument(
        "--isolation",
        choices=("thread", "process"),
        help="where environments live (default: rollout.isolation of the run, or thread)",
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        help="seconds for one call of an environment (default: rollout.time_limit of the run, or 30)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Replays, and prints what was found; 1 where something differs, or could not be played."""
    from agentopd import records
    from agentopd.cli.table import read_in_part
    from agentopd.training.show.display import attended

    with attended(), read_in_part():
        opened = records.open(arguments.records)
        played = _play(opened, arguments)
        if not arguments.json:  # what is known stands there whatever becomes of the rest
            _show_episodes(played)
        learned, notes = _learn(opened, chosen.steps(arguments.step))
        if arguments.json:
            told = {**played.plain(), "notes": [*played.notes, *notes], "steps": [step.plain() for step in learned]}
            print(json.dumps(told, indent=2, ensure_ascii=False))
        else:
            _show_steps(learned, notes)
    return int(not (played.same and all(step.same for step in learned)))


def _play(opened: "Records", arguments: argparse.Namespace) -> "Replay":
    """Plays the episodes, with the settings of their run where it has some.

    Raises:
        ConfigError: No episode is meant.
    """
    from agentopd.config import load_config
    from agentopd.errors import ConfigError
    from agentopd.replaying import Verdict, replay
    from agentopd.training.loop.folder import RunFolder
    from agentopd.training.show.display import Meter

    where = chosen.where([*arguments.where, *arguments.overrides])
    steps = chosen.steps(arguments.step)
    file = RunFolder(opened.folder.parent).config
    own: dict[str, Any] = (
        load_config(file).rollout.model_dump(include={"isolation", "time_limit", "concurrency"})
        if file.exists()
        else {}
    )
    given = {
        name: getattr(arguments, name) for name in ("isolation", "time_limit") if getattr(arguments, name) is not None
    }
    there = opened.table(["step"])["step"].to_pylist()
    meter, done = Meter("episodes", sum(steps is None or step in steps for step in there)), 0

    def on_done(verdict: Verdict) -> None:
        nonlocal done
        done += 1
        meter.show(done)

    try:
        played = replay(opened, steps=steps, where=where, on_done=on_done, **(own | given))
    finally:
        meter.close(silent=True)
    if not played.verdicts:
        some = f"those that have records: {', '.join(map(str, opened.steps)) or 'none'}"
        raise ConfigError(
            f"--step, --where: they mean none of the {len(opened)} episodes in {opened.folder}; steps: {some}"
        )
    return played


def _learn(opened: "Records", steps: range | None) -> "tuple[list[StepReplay], list[str]]":
    """The steps that can be learned from again, where any are asked for; and what is said of the others."""
    from agentopd.training.replaying.step import is_run, repeatable, replay_step

    run = opened.folder.parent
    if steps is None:
        return [], []
    if not is_run(run):
        only = "so only the episodes were played again, and no step was learned from again"
        return [], [f"{run} is no run folder (no config.yaml), {only}"]
    can = repeatable(run, opened)
    there = ", ".join(map(str, can)) or "none"
    notes = [
        f"no checkpoint was made before step {step}, so only its episodes were played again; steps that can be learned from again: {there}"
        for step in opened.steps
        if step in steps and step not in can
    ]
    return [replay_step(run, step) for step in can if step in steps], notes


def _show_episodes(played: "Replay") -> None:
    from agentopd.cli.table import show

    told = [verdict for verdict in played.verdicts if verdict.told]
    if told:
        first = sorted(told, key=lambda verdict: STATUSES.index(verdict.status), reverse=True)[:LISTED]
        show(("episode", "environment", "verdict", "what"), [(str(v.key), v.env_id, v.status, v.told) for v in first])
        if len(told) > LISTED:
            print(f"and {len(told) - LISTED} more, which --json lists")
    rows = [
        (env_id, str(sum(count.values())), *(str(count[one]) for one in STATUSES))
        for env_id, count in played.counts().items()
    ]
    show(("environment", "episodes", *STATUSES), rows)
    for note in played.notes:
        print(note)


def _show_steps(learned: "Sequence[StepReplay]", notes: Iterable[str]) -> None:
    from agentopd.cli.table import show

    for step in learned:
        show((f"step {step.step}", "recorded", "recomputed", "relative difference", ""), list(_rows(step)))
        for note in step.notes:
            print(note)
    for note in notes:
        print(note)


def _rows(step: "StepReplay") -> "Iterator[tuple[str, ...]]":
    for row in step.told:
        yield (
            row.metric,
            f"{row.recorded:.9g}",
            f"{row.recomputed:.9g}",
            f"{row.difference:.1e}",
            "same" if row.same else "DIFFERS",
        )
    others = len(step.rows) - len(step.told)
    yield (
        f"{others} more metrics",
        "",
        "",
        f"{max((row.difference for row in step.rows if row.same), default=0.0):.1e}",
        "same",
    )
