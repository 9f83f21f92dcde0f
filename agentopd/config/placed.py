"""What may be placed on a cluster."""

from collections.abc import Mapping

from agentopd.cluster.settings import Cluster
from agentopd.objective.spec import Objective
from agentopd.settings.choice import Choice
from agentopd.settings.problems import nearest
from agentopd.teachers import is_language_model, members_of


def require_placed(cluster: Cluster, objective: Objective, teachers: Mapping[str, Choice]) -> None:
    """Raises ValueError where something is placed that has to be in the run's own process."""
    for name, source in objective.sources.items():
        if source.acting_at_first.mixing is not None and cluster.rollout is not None:
            raise ValueError(
                f"objective.sources.{name}.acting.kind={source.acting.kind}: each token takes the logits of two models, which actors do "
                "not give; leave out cluster.rollout, or choose acting.kind: turns"
            )
    for name in cluster.teachers:
        if name not in teachers:
            known = f"there are: {', '.join(teachers) or 'none'}"
            raise ValueError(f"cluster.teachers: no teacher is called {name!r}{nearest(name, teachers)}; {known}")
        if why := _bound(name, objective, teachers):
            raise ValueError(
                f"cluster.teachers.{name}: it has to be in the run's own process, since {why}; leave it out"
            )


def _bound(name: str, objective: Objective, teachers: Mapping[str, Choice]) -> str | None:
    """Why a teacher cannot be placed elsewhere."""
    settings = teachers[name].settings
    if not is_language_model(teachers[name]) or (settings.get("model") is None and settings.get("new") is None):
        return f"a teacher of kind {teachers[name].kind} as it is given has no language model of its own"
    acts = [source for source, one in objective.sources.items() if name in one.who]
    if acts:
        return f"it acts in objective.sources.{acts[0]}"
    readers = [other for other, choice in teachers.items() if name in members_of(choice)]
    return f"the teacher {readers[0]!r} reads it" if readers else None
