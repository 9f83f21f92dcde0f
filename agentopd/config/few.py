"""Terms that read whole distributions, or other tokens of them than the teacher gives."""

from collections.abc import Iterator

from agentopd.objective.term import Term
from agentopd.settings.choice import Choice, numbers_of
from agentopd.teachers import Few, traits_of


def require_enough(key: str, term: Term, name: str, choice: Choice) -> None:
    """Holds what the term at ``key`` reads of the teacher ``name`` against the ids that this gives.

    Raises:
        ValueError: They are not enough, or others.
    """
    few = traits_of(choice).few
    if few is None or not term.reads_distribution:
        return
    own = f"teachers.{name}"
    if few.k == 0:
        raise ValueError(
            f"{key}.support.kind={term.support.kind}: {own}.{few.many}=0 tells only the token taken; set {own}.{few.many}: 64 and {key}.support: "
            f"{{kind: top_k, k: 64}}, or {key}.estimator: {{kind: score_function}}"
        )
    gives = f"{own}.kind={choice.kind} gives {_told(few)}"
    for setting, why, remedy in _whole(term, few):
        whole = f"{own}.{few.many}: -1" + ("" if few.of == "teacher" else f" with {few.whose}: teacher")
        raise ValueError(
            f"{key}.{setting}: {why}, and {gives}; set {key}.{remedy}, or {whole} for all of a small vocabulary"
        )
    if term.support.kind == "top_k":
        _require_top_k(key, own, term, few, gives)


def _told(few: Few) -> str:
    who = {"teacher": "its", "student": "the student's", "union": "a union of its own and the student's"}[few.of]
    return f"{who} {few.k} likeliest tokens ({few.whose}={few.of}, {few.many}={few.k})"


def _whole(term: Term, few: Few) -> Iterator[tuple[str, str, str]]:
    """What a term reads whole distributions for: the setting, why, and what to set instead."""
    if not term.analytic:
        yield "estimator.baseline=value", "it is a mean over full distributions", "estimator.baseline: batch_mean"
    if term.target.kind != "distribution":
        yield f"target.kind={term.target.kind}", "it is made of full distributions", "target.kind: distribution"
    if term.temperature != 1.0:
        yield "temperature", "another than 1 takes full distributions", "temperature: 1"
    if term.support.kind == "full":
        of = "" if few.of == "teacher" else f", of: {few.of}"
        yield "support.kind=full", "it is all of the vocabulary", f"support: {{kind: top_k, k: {few.k}{of}}}"


def _require_top_k(key: str, own: str, term: Term, few: Few, gives: str) -> None:
    of, k = term.support.settings["of"], max(numbers_of(term.support.settings["k"]), default=0)
    if of != few.of:
        raise ValueError(f"{key}.support.of={of}: {gives}; set {own}.{few.whose}: {of}, or {key}.support.of: {few.of}")
    if k > few.k or (of == "union" and k != few.k):
        most = f"{few.k}, since a union is of exactly as many," if of == "union" else f"at most {few.k},"
        raise ValueError(f"{key}.support.k={k}: {gives}; set it to {most} or {own}.{few.many}: {k}")
