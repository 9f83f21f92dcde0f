"""What is recorded: teachers whose word lies in records, and sources whose episodes do, held against the rest of a configuration."""

from agentopd.config.asked import Teachers
from agentopd.objective.source import Source
from agentopd.objective.spec import Objective
from agentopd.settings.problems import nearest
from agentopd.teachers import traits_of


def require_recorded(objective: Objective, teachers: Teachers) -> None:
    """Raises ValueError where a term asks a teacher whose word is recorded about episodes that no record can hold."""
    recorded = {name for name, choice in teachers.items() if traits_of(choice).recorded}
    for key, term in objective.keyed():
        read = {name: source for name, source in objective.sources.items() if _may_select(term.where.source, name)}
        other = [name for name, source in read.items() if not _is_over(source)]
        for setting, teacher in {**term.reads, **({"name": term.reward} if term.reward else {})}.items():
            if teacher in recorded and (other or not read):
                raise ValueError(
                    f"{key}.target.{setting}={teacher}: what this teacher says was recorded, and the term learns from "
                    f"{', '.join(other) or 'no source'}, whose episodes are not; select sources of kind recorded that play nothing by "
                    f"{key}.where.source, or make the source one: {{kind: recorded, records: RUN}}"
                )


def _may_select(selected: tuple[str, ...], name: str) -> bool:
    return not selected or name in selected


def _is_over(source: Source) -> bool:
    """Whether its episodes are those of records."""
    return source.kind == "recorded" and not source.plays


def require_earlier(objective: Objective, kept: bool) -> None:
    """Raises ValueError where a source draws from earlier episodes that nobody plays, or nobody keeps."""
    fresh = [name for name, source in objective.sources.items() if source.kind == "fresh"]
    for name, source in objective.sources.items():
        if source.kind != "replayed":
            continue
        key = f"objective.sources.{name}"
        if source.of not in fresh:
            raise ValueError(
                f"{key}.of={source.of}: no fresh source is called that{nearest(str(source.of), fresh)}; there are: {', '.join(fresh) or 'none'}"
            )
        if source.per_task != objective.sources[source.of].per_task:
            raise ValueError(
                f"{key}.per_task={source.per_task}: the episodes of {source.of} come in groups of {objective.sources[source.of].per_task}; set "
                "both alike"
            )
        if not kept:
            raise ValueError(f"{key}.kind=replayed: it draws from the run's own records; set records.keep: true")
