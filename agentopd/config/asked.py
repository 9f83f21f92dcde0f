"""What a method asks of its teachers, held against what their kinds may give: distributions, rewards, statistics."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from agentopd.chat.hint import SIBLING
from agentopd.config.few import require_enough
from agentopd.objective.advantages import OUTCOME
from agentopd.objective.columns import ENSEMBLE
from agentopd.objective.contract import is_own
from agentopd.objective.source import Source
from agentopd.objective.spec import Objective
from agentopd.objective.term import Term
from agentopd.objective.weights import asks
from agentopd.objective.weights.named import AN_ENSEMBLE, OF_STUDENT, STATISTICS
from agentopd.settings.choice import Choice, numbers_of
from agentopd.settings.problems import nearest
from agentopd.teachers import depends_on_settings, traits_of
from agentopd.teachers.hints import shows_sibling
from agentopd.types import EXPERT, STUDENT

Teachers: TypeAlias = Mapping[str, Choice]
What: TypeAlias = Literal["distribution", "reward"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One teacher's name in a method."""

    key: str
    """Of the setting that names it."""
    teacher: str
    what: What


def asked(objective: Objective) -> Iterator[Asked]:
    """Every teacher that the terms, their weights and the coupling name."""
    for key, term in objective.keyed():
        for setting, name in term.reads.items():
            yield Asked(f"{key}.target.{setting}", name, "distribution")
        if term.reward not in (None, OUTCOME):
            yield Asked(f"{key}.target.name", str(term.reward), "reward")
        for place, weight in term.weights_at(key):
            if not is_own(weight) and weight.settings.get("of") is not None:
                yield Asked(f"{place}.of", weight.settings["of"], "distribution")
    rewarded = objective.coupling.settings.get("reward_name", OUTCOME)
    if rewarded != OUTCOME:
        yield Asked("objective.coupling.reward_name", rewarded, "reward")


def require_teachers(objective: Objective, teachers: Teachers) -> None:
    """Looks for every teacher that a method names.

    Raises:
        ValueError: There is none of that name, or its kind never gives what it is asked for, or not of so many tokens.
    """
    for one in asked(objective):
        if one.teacher not in teachers:
            raise _missing(one.key, one.teacher, teachers)
        _require_given(one, teachers[one.teacher])
    for name in sorted(objective.teachers() - set(teachers)):  # named by a part of one's own
        raise _missing("objective", name, teachers)
    _require_vocabularies(objective, teachers)
    for key, term in objective.keyed():
        for name in term.reads.values():
            require_enough(key, term, name, teachers[name])


def _require_vocabularies(objective: Objective, teachers: Teachers) -> None:
    """Refuses a term that compares the student's tokens with those of a teacher whose tokens are others."""
    for key, term in objective.keyed():
        for name in term.reads.values() if (wrong := term.one_vocabulary) else ():
            if traits_of(teachers[name]).own_tokenizer:
                raise ValueError(
                    f"{key}.{wrong} (teachers.{name}.kind={teachers[name].kind} has a vocabulary of its own)"
                )


def _missing(key: str, name: str, teachers: Teachers) -> ValueError:
    there = f"there are: {', '.join(teachers) or 'none'}"
    if name == STUDENT:
        return ValueError(
            f"{key}={name}: the live student is no teacher; name one, such as the student as it began, {{kind: self}}; {there}"
        )
    return ValueError(
        f"{key}={name}: no teacher is called that{nearest(name, teachers)}; {there}; name one of them, or add teachers.{name}"
    )


def _require_given(one: Asked, choice: Choice) -> None:
    traits, set_so = traits_of(choice), ", as it is set," if depends_on_settings(choice) else ""
    said = f"{one.key}={one.teacher}: teachers.{one.teacher}.kind={choice.kind}{set_so}"
    if one.what == "reward" and not traits.rewards:
        raise ValueError(f"{said} gives no rewards; name outcome, or a teacher that rewards, such as {{kind: reward}}")
    if one.what == "distribution" and not traits.distributes:
        corrected = ", or learn from its corrections: where: {source: corrected} and target: {kind: taken}"
        rewarded = f", or set target: {{kind: reward, name: {one.teacher}}}"
        instead = corrected if traits.corrects else rewarded if traits.rewards else ""
        raise ValueError(
            f"{said} gives no distribution over tokens; name a teacher that is a model, such as {{kind: local}}{instead}"
        )


def require_statistics(objective: Objective, teachers: Teachers) -> None:
    """Looks for somebody who tells every statistic that a shipped weight reads.

    Raises:
        ValueError: A weight reads what takes a teacher, and there is none to ask; or that teacher's kind never tells it.
    """
    for key, term in objective.keyed():
        for place, weight in term.weights_at(key):
            for name in () if is_own(weight) else asks(weight):
                _require_told(place, term, weight, name, teachers)


def _require_told(place: str, term: Term, weight: Choice, name: str, teachers: Teachers) -> None:
    if name in OF_STUDENT:
        return
    key, who = f"{place}.kind={weight.kind}", weight.settings.get("of") or term.teacher
    if who is None:
        ask = f", or {place}.of: <teacher>" if "of" in weight.settings else ""
        raise ValueError(
            f"{key}: it reads {name!r} of a teacher, and the term's target={term.target.kind} is none's distribution; set target: {{kind: "
            f"distribution}}{ask}"
        )
    kind, told = teachers[who].kind, traits_of(teachers[who]).statistics
    if name in STATISTICS or told is None or name in told or is_own(teachers[who]):
        return
    if name in ENSEMBLE:
        raise ValueError(
            f"{key}: {name!r} is told by an ensemble, and the teacher that it asks is of kind {kind!r}; add {AN_ENSEMBLE}"
        )
    known = [*STATISTICS, *told]
    raise ValueError(
        f"{key}: {name!r} is no statistic that teachers.{who}.kind={kind} tells{nearest(name, known)}; there are: {', '.join(known)}"
    )


def require_groups(objective: Objective, teachers: Teachers) -> None:
    """Looks for several episodes of one task, where a teacher that the method names compares them, by the actors that it compares.

    Raises:
        ValueError: No source plays them, or there is no such actor.
    """
    alone = all(source.per_task == 1 for source in objective.sources.values())
    for name in sorted(objective.teachers() & teachers.keys()):
        if traits_of(teachers[name]).compares:
            _require_pairs(name, teachers[name].settings["chosen"], objective, [EXPERT, *teachers])
        if alone and (how := grouped_by(teachers[name])):
            setting, why, instead = how
            raise ValueError(
                f"teachers.{name}.{setting}: {why}, and every source has per_task: 1; set objective.sampler.per_task to 2 or more, or {instead}"
            )


def grouped_by(choice: Choice) -> tuple[str, str, str] | None:
    """What a shipped teacher says of nothing, or 0 of everything, where no two episodes are of one task.

    Returns:
        The setting that makes it so, why, and what to set instead; ``None`` for most teachers.
    """
    if is_own(choice):
        return None
    if choice.settings.get("normalised") == "group":
        why = "rewards are compared within the episodes of one task, alone each would be 0"
        return "normalised=group", why, "normalised: none"
    if choice.settings.get("ask") == "preference":
        return "ask=preference", "actions of several episodes of one task are compared", "ask: score"
    if traits_of(choice).hint and choice.settings["hint"] is not None and shows_sibling(choice.settings["hint"]):
        return "hint", f"{{{SIBLING}}} is another episode of the same task", "show something else"
    return None


def _require_pairs(name: str, chosen: str, objective: Objective, known: Sequence[str]) -> None:
    if chosen not in (STUDENT, *known):
        raise ValueError(
            f"teachers.{name}.chosen={chosen}: nobody is called that{nearest(chosen, known)}; there are: {', '.join(dict.fromkeys(known))}"
        )
    if chosen == STUDENT or not any(_plays_both(source, chosen) for source in objective.sources.values()):
        other = chosen if chosen != STUDENT else EXPERT
        raise ValueError(
            f"teachers.{name}.chosen={chosen}: it learns from episodes of another than the student beside the student's, of the same task, and no "
            f"source plays both; set objective.sampler: {{actors: {{student: 7, {other}: 1}}, per_task: 8, divided: true}}"
        )


def _plays_both(source: Source, chosen: str) -> bool:
    """Whether a task of the source may have episodes of both; those of a source that plays none may be from elsewhere."""
    shares = (source.actors.get(actor, 0.0) for actor in (STUDENT, chosen))
    both = all(any(numbers_of(share) or [1.0]) for share in shares)  # of one's own schedule nothing is known
    return source.per_task > 1 and (both or not source.plays)
