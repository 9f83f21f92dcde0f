"""Annotating recorded trajectories, step by step, into a folder of records of their own."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentopd import records
from agentopd.chat.tokenizer import keep_beside
from agentopd.config.asked import grouped_by
from agentopd.config.shipped import load_yaml, write
from agentopd.errors import ConfigError, TeacherError
from agentopd.records import Records, RecordWriter
from agentopd.records.store import Store
from agentopd.teachers import turns_of
from agentopd.teachers.identity import of_chat
from agentopd.training.annotating.asking import Asking
from agentopd.training.annotating.question import (
    Question,
    require_told,
    teachers_of,
    tokenizer_for,
)
from agentopd.training.annotating.signals import merged, renumbered
from agentopd.training.checks.recorded import NOTE, require_written
from agentopd.training.loop.checkpoints import asked_otherwise
from agentopd.training.loop.folder import require_free, write_atomically
from agentopd.training.loop.lock import held
from agentopd.training.show.display import Meter, attended, say

STORE = "annotations.sqlite"
"""The file in ``stages.cache``, or another folder, that holds what teachers said."""
UNREAD = "unread.json"
"""The file in a folder of annotated records that says why a teacher could not read episodes, by its name; absent where all could."""


@attended()
def annotate(
    asked: Question, output: str | Path | None = None, steps: range | None = None, cache: str | Path | None = None
) -> dict[str, Any]:
    """Writes records with what teachers say of their trajectories; goes on where an earlier call with the same question ended.

    Args:
        asked: Who is asked about what.
        output: A folder for the records; by default beside that of the run, ``RUN-annotated``.
        steps: Those that are annotated; by default all.
        cache: The folder of what teachers said before; by default ``stages.cache``.

    Returns:
        Where the records are, how many, and of each teacher about how many it was asked ``anew`` and the share of turns that it teaches.

    Raises:
        ConfigError: The teachers do not fit, or ``output`` holds something else.
        TeacherError: A teacher failed, or can read none of the episodes.
    """
    source = asked.records
    target = Path(output) if output is not None else _beside(source.folder)
    wanted = [step for step in source.steps if steps is None or step in steps]
    if not wanted:
        there = f"{source.steps[0]} to {source.steps[-1]}" if source.steps else "none"
        raise ConfigError(f"--step: {source.folder} has no records of these steps; those that have some: {there}")
    _require_ours(asked, target)
    _require_groups(asked, wanted)
    require_told(asked, wanted)
    tokenizer = tokenizer_for(asked)
    chat = asked.config.chat(tokenizer)
    for step in wanted[:1]:
        require_written("--config", chat, next(iter(source.step(step))).trajectory)
    kept = Path(cache or asked.config.stages.cache).expanduser()
    store = Store(kept / STORE)
    with held(target), _told(target):
        teachers = teachers_of(asked, tokenizer, chat, target, kept)
        write_atomically(target / NOTE, write(asked.plain()))
        keep_beside(tokenizer, target)
        asking = Asking(asked, teachers, of_chat(chat), store, _unread(target))
        _write(asking, wanted, target)
    store.close()
    return _summary(asking, wanted, target)


def _beside(folder: Path) -> Path:
    run = folder.parent if folder.name == "records" else folder
    return run.with_name(f"{run.resolve().name}-annotated")


def _unread(target: Path) -> dict[str, str]:
    """What :data:`UNREAD` says of the steps that are done."""
    file = target / UNREAD
    return dict(load_yaml(file)) if file.exists() else {}


def _require_ours(asked: Question, target: Path) -> None:
    """Raises ConfigError where ``target`` holds anything but the answers to this question."""
    note = target / NOTE
    if not note.exists():
        require_free(target, goes_on="")
        return
    other = asked_otherwise(note, asked.plain(), asked.config)
    if other is not None:
        key, was, is_ = other
        raise ConfigError(
            f"output: {target} holds records that were annotated with {key}={was!r}, and this asks for {is_!r}; ask the same, or choose "
            "another folder: what teachers have said is not asked again"
        )


def _require_groups(asked: Question, steps: Sequence[int]) -> None:
    """Raises ConfigError where a teacher compares episodes of one task, and no step has two."""
    table = asked.records.table(["step", "task"])
    pairs = [
        pair for pair in zip(*(table[name].to_pylist() for name in ("step", "task")), strict=True) if pair[0] in steps
    ]
    for name, choice in asked.config.teachers.items() if len(set(pairs)) == len(pairs) else ():
        if how := grouped_by(choice):
            setting, why, instead = how
            raise ConfigError(
                f"teachers.{name}.{setting}: {why}, and no step here has two; choose records of a run with per_task: 2 or more, or {instead}"
            )


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """Says that nothing is lost where the work ends early."""
    try:
        yield
    except KeyboardInterrupt:
        say(
            f"interrupted; the same command goes on where this ended: {target} has the steps that are done, and what was said is kept"
        )
        raise
    except TeacherError as error:
        error.args = (f"{error}; what was said so far is kept, and the same command goes on with the rest",)
        raise


def _write(asking: Asking, steps: Sequence[int], target: Path) -> None:
    """Annotates and writes every step that ``target`` lacks."""
    source, writer = asking.asked.records, RecordWriter(target)
    done = set(Records(writer.folder).steps)
    waiting = [step for step in steps if step not in done]
    episodes = sum(step in waiting for step in source.table(["step"])["step"].to_pylist())
    meter, before = Meter("annotating: episodes", episodes), 0
    try:
        for step in waiting:
            was = list(source.step(step))
            said = asking([record.trajectory for record in was], lambda done: meter.show(before + done, _asked(asking)))  # noqa: B023
            before += len(was)
            if asking.unread:
                write_atomically(target / UNREAD, json.dumps(asking.unread))
            writer.write(
                step,
                [replace(one, annotations=merged(one.annotations, new)) for one, new in zip(was, said, strict=True)],
            )
    finally:
        meter.close()
    kept = Records(writer.folder)
    for step in steps:
        if step in source.signal_steps and step not in kept.signal_steps:
            pairs = zip(source.step(step), kept.step(step), strict=True)
            writer.write_signals(step, renumbered(source.signals(step), pairs))


def _asked(asking: Asking) -> str:
    return "  ".join(f"{name} {count} asked" for name, count in asking.anew.items())


def _summary(asking: Asking, steps: Sequence[int], target: Path) -> dict[str, Any]:
    """What was done.

    Raises:
        TeacherError: A teacher could read none of the episodes.
    """
    episodes, turns, taught, skipped = 0, 0, dict.fromkeys(asking.teachers, 0), dict.fromkeys(asking.teachers, 0)
    kept = records.open(target)
    for step in steps:
        for record in kept.step(step):
            episodes += 1
            turns += len(record.trajectory.turns)
            for one in record.annotations:
                if one.teacher in taught:
                    taught[one.teacher] += int((~one.skip_S).sum())
                    where = asking.teachers[one.teacher].where
                    skipped[one.teacher] += bool(one.skip_S.all() and turns_of(where, record.trajectory).any())
    for name, why in asking.unread.items():
        if not taught[name]:
            raise TeacherError(why if repr(name) in why else f"teacher {name!r}: {why}")
    told = {name: _of_teacher(asking, name, count / max(turns, 1), skipped[name]) for name, count in taught.items()}
    return {"records": str(target), "episodes": episodes, "steps": len(steps), "teachers": told}


def _of_teacher(asking: Asking, name: str, share: float, skipped: int) -> dict[str, Any]:
    spent = getattr(asking.teachers[name], "spending", str)()
    told = {"asked_anew": asking.anew[name], "turns_taught": round(share, 4)}
    return told | ({"episodes_skipped": skipped} if skipped else {}) | ({"spent": spent} if spent else {})
