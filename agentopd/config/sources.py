"""Who acts in the sources of a method and what its selections name, held against the rest of a configuration."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from agentopd.config.asked import Teachers
from agentopd.objective.source import Source
from agentopd.objective.spec import Objective
from agentopd.rollout.tasks import EnvConfig
from agentopd.settings.choice import Choice, at, numbers_of
from agentopd.settings.clock import Clock
from agentopd.settings.problems import nearest
from agentopd.types import CORRECTED, EXPERT, IMPORTED, RECORDED, STUDENT
from agentopd.where import Where


def require_actors(objective: Objective, teachers: Teachers) -> None:
    """Raises ValueError where an actor is neither the student, nor the expert, nor a teacher."""
    known = _actors(objective, teachers)
    for name, source in objective.sources.items():
        for actor in source.who:
            _require_known(f"objective.sources.{name}.{source.setting_of(actor)}: nobody is called", actor, known)


def _actors(objective: Objective, teachers: Teachers) -> list[str]:
    """All who can act."""
    prefixed = any(RECORDED in source.who for source in objective.sources.values())
    return list(dict.fromkeys([STUDENT, EXPERT, *([RECORDED] if prefixed else []), *teachers]))


def require_students_turns(objective: Objective, most_turns: int) -> None:
    """Raises ValueError where a prefix of others leaves the student no turn, of at most ``most_turns``."""
    for name, source in objective.sources.items():
        if source.acting.kind == "prefix":
            _require_turn(f"objective.sources.{name}.acting.turns", source, most_turns)


def _require_turn(said: str, source: Source, most_turns: int) -> None:
    turns, from_end = source.acting.settings["turns"], source.acting.settings["counted_from"] == "end"
    followed = source.acting.settings["by"] == RECORDED  # to the turn before its last at most
    numbers = numbers_of(turns)
    limit = min([most_turns, *(numbers_of(source.max_turns) if source.max_turns is not None else [])])
    if numbers and from_end and max(numbers) < 1:
        raise ValueError(
            f"{said}={max(numbers):g}: all but so many turns of the expert's episode leave the student none; set it to 1 or more"
        )
    if numbers and not (from_end or followed) and min(numbers) >= limit:
        raise ValueError(
            f"{said}={min(numbers):g}: an episode has at most {limit:g} turns, so the student would never act; lower it, or raise "
            "max_turns of the rollout and the source"
        )


def require_logits(objective: Objective, engine: Choice) -> None:
    """Raises ValueError where two models write a turn together, and the student's is not in this process."""
    for name, source in objective.sources.items():
        if source.acting_at_first.mixing is not None and engine.kind != "transformers":
            raise ValueError(
                f"objective.sources.{name}.acting.kind={source.acting.kind}: each token takes the logits of two models, which "
                f"rollout.engine.kind={engine.kind} does not give; choose kind: transformers, or acting.kind: turns"
            )


def require_selections(objective: Objective, teachers: Teachers, envs: Sequence[EnvConfig]) -> None:
    """Raises ValueError where the ``where`` of a term or a teacher names what there is not."""
    given = [IMPORTED] if not all(source.plays for source in objective.sources.values()) else []
    known = {
        "actor": [*_actors(objective, teachers), *given],
        "source": [*objective.sources, CORRECTED],
        "env": [env.id for env in envs],
        "tag": [tag for env in envs for tag in env.tags],
    }
    wheres: dict[str, Any] = {key: term.where for key, term in objective.keyed()}
    wheres |= {f"teachers.{name}": teacher.settings.get("where") for name, teacher in teachers.items()}
    for place, where in wheres.items():
        for key, names in known.items() if isinstance(where, Where) else ():
            for name in getattr(where, key):
                _require_known(f"{place}.where.{key}: there is no", name, names)


def require_shaped(objective: Objective, teachers: Teachers) -> None:
    """Raises ValueError where a weight is for the tokens of an actor that there is not."""
    known = _actors(objective, teachers)
    for key, term in objective.keyed():
        for place, weight in term.weights_at(key):
            if weight.kind == "shape" and weight.settings["actor"] is not None:
                _require_known(f"{place}.kind=shape: actor: nobody is called", weight.settings["actor"], known)


def require_rows(objective: Objective, teachers: Teachers, most_turns: int) -> None:
    """Raises ValueError where a term selects tokens of nobody who acts, or turns that no episode of ``most_turns`` has.

    Who acts in a source that plays none is not asked: its episodes may be from elsewhere.
    """
    for place, term in objective.keyed():
        where, key = term.where, f"{place}.where"
        read = {name: one for name, one in objective.sources.items() if not where.source or name in where.source}
        if _selects_corrections(where, teachers) or not all(one.plays for one in read.values()):
            continue
        acting = {actor for source in read.values() for actor in source.who}
        if where.actor and acting.isdisjoint(where.actor):
            raise ValueError(
                f"{key}.actor={list(where.actor)}: none of them acts in {_listed(read) or 'any source'}, so the term has nothing to learn "
                f"from; there act: {_listed(acting) or 'nobody'}; select one of these, or let another act by objective.sampler.actors"
            )
        if where.min_turn >= most_turns:
            raise ValueError(
                f"{key}.min_turn={where.min_turn}: turns are counted from 0, and an episode has at most {most_turns}; lower it, or raise "
                "rollout.max_turns"
            )


def _selects_corrections(where: Where, teachers: Teachers) -> bool:
    """Whether corrected actions, whose actor is the teacher that wrote them, may be among what ``where`` selects."""
    return CORRECTED in where.source and (not where.actor or not set(teachers).isdisjoint(where.actor))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def require_tasks(objective: Objective, tasks: Callable[[Clock], Mapping[str, int]], steps: int) -> None:
    """Raises ValueError where there is no source, or one without any of the ``tasks`` of a step, or a step without a source.

    A share that is a schedule may come to no task at times.
    """
    if not objective.sources:
        raise ValueError("objective.sources: there is none, so nothing would be drawn; give one, such as fresh: {}")
    shares = {name: source.share for name, source in objective.sources.items()}
    moving = [share for share in shares.values() if isinstance(share, Choice)]
    for step in range(steps if moving and all(map(numbers_of, moving)) else 1):
        counts = tasks(Clock(step, steps))
        idle = [name for name, count in counts.items() if count == 0 and not moving]
        if idle:
            raise ValueError(
                f"objective.sources.{idle[0]}.share: {shares[idle[0]]:g} comes to none of the "
                f"train.tasks_per_step={sum(counts.values())} tasks of a step, shared as {dict(counts)}; raise either, or leave "
                "the source out"
            )


def require_somebody(objective: Objective, steps: int) -> None:
    """Raises ValueError where at one of the ``steps`` all shares of a source's actors are 0."""
    for name, source in objective.sources.items():
        shares = source.actors.values()
        if not all(map(numbers_of, shares)) or not any(isinstance(share, Choice) for share in shares):
            continue  # a schedule of one's own reads what is not known yet; numbers have been looked at
        for step in range(steps):
            clock = Clock(step, steps)
            if not any(at(share, clock, actor) for actor, share in source.actors.items()):
                raise ValueError(
                    f"objective.sources.{name}.actors: at step {step} all shares are 0, so nobody would act; keep one above 0"
                )


def _require_known(said: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(
            f"{said} {name!r}{nearest(name, known)}; there are: {', '.join(dict.fromkeys(known)) or 'none'}"
        )
