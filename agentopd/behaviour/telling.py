"""Behaviour as plain data and as tables."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentopd.behaviour.counts import Agreement, Depth, Mean, Share, Taught, Tool
from agentopd.behaviour.group import Group
from agentopd.behaviour.whole import ALL, Behaviour

Table = tuple[Sequence[str], list[Sequence[str]]]
"""What the columns are called, and the rows."""
NOTHING = "-"


def to_dict(found: Behaviour) -> dict[str, Any]:
    """As JSON holds it: a share is ``{share, hits, n}``, with ``low`` and ``high`` of its 95% Wilson interval; what is not known is null."""
    told = {"by": found.by, ALL: _group(found.whole), "groups": {n: _group(one) for n, one in found.groups.items()}}
    return told | {"missing": found.missing}


def _group(group: Group) -> dict[str, Any]:
    turns = group.calls.n
    return {
        "episodes": group.episodes,
        "success": _share(group.success),
        "reward": _number(group.reward.value),
        "turns": _mean(group.turns),
        "tokens": _mean(group.tokens),
        "thinking": _number(group.thinking.value),
        "stops": dict(group.stops.most_common()),
        "calls_per_turn": _number(group.calls.value),
        "bad_turns": _share(group.bad),
        "errors": {kind: _share(Share(count, turns)) for kind, count in group.errors.most_common()},
        "repeated_in_a_row": _share(group.in_a_row),
        "repeated": _share(group.again),
        "against": {name: _agreement(one) for name, one in group.against.items()},
        "teachers": {name: _taught(one) for name, one in group.teachers.items()},
        "depths": [{"turn": turn, **_depth(group.depths[turn])} for turn in sorted(group.depths)],
        "tools": {name: _tool(one) for name, one in _by_calls(group)},
    }


def _agreement(one: Agreement) -> dict[str, Any]:
    names = ("precision", "recall", "exact_precision", "exact_recall", "over_calling")
    counts = {"turns": one.turns, "made": one.made, "wanted": one.wanted}
    return counts | {name: _share(getattr(one, name)) for name in names} | {"excess_calls": one.excess}


def _taught(one: Taught) -> dict[str, Any]:
    return {
        "kl": _number(one.kl.value),
        "tokens": one.kl.n,
        "taken_in_top": _share(one.in_top),
        "mass": _number(one.mass.value),
        "overlap": _share(one.overlap),
        "k": sorted(one.k),
    }


def _depth(one: Depth) -> dict[str, Any]:
    return {
        "turns": one.turns,
        "bad_turns": _share(Share(one.bad, one.turns)),
        "kl": {name: _number(mean.value) for name, mean in one.kl.items()},
        "divergence": {name: _number(mean.value) for name, mean in one.divergence.items()},
    }


def _tool(one: Tool) -> dict[str, Any]:
    seconds = {"mean": _number(one.seconds.value), "most": _number(one.seconds.most)}
    return {"calls": one.calls, "outcomes": dict(one.outcomes.most_common()), "seconds": seconds, "cut": one.cut}


def _share(share: Share) -> dict[str, Any]:
    low, high = share.rate.interval if share.n else (math.nan, math.nan)
    return {"share": _number(share.value), "hits": share.hits, "n": share.n, "low": _number(low), "high": _number(high)}


def _mean(mean: Mean) -> dict[str, Any]:
    return {"mean": _number(mean.value), "most": _number(mean.most)}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _by_calls(group: Group) -> list[tuple[str, Tool]]:
    return sorted(group.tools.items(), key=lambda one: (-one[1].calls, one[0]))


# For people.


def tables(found: Behaviour) -> Iterator[Table]:
    """The behaviour of the groups side by side, then of all: agreement, teachers, depths and tools, as far as there are any."""
    columns = {ALL: found.whole, **found.groups}
    lines = [_lines(group) for group in columns.values()]
    yield (found.by or "", *columns), [(name, *(line[name] for line in lines)) for name in lines[0]]
    whole = found.whole
    if kinds := list(whole.errors):
        groups = columns.values()
        shares = {k: [_told(Share(group.errors[k], group.calls.n)) for group in groups] for k in kinds}
        yield ("turns with a bad action", *columns), [(kind, *shares[kind]) for kind in kinds]
    if whole.against:
        yield _agreements(whole.against)
    if whole.teachers:
        yield _teachers(whole.teachers)
    if whole.depths:
        yield _depths(whole)
    if whole.tools:
        yield _tools(whole)


def _lines(group: Group) -> Mapping[str, str]:
    """The first table's rows for one group."""
    stops = ", ".join(f"{stop} {count}" for stop, count in group.stops.most_common())
    return {
        "episodes": str(group.episodes),
        "success": group.success.rate.text(),
        "reward": _real(group.reward.value),
        "turns": f"{_real(group.turns.value)}, at most {_real(group.turns.most)}",
        "tokens": f"{_real(group.tokens.value)}, at most {_real(group.tokens.most)}",
        "thinking": _told(group.thinking),
        "calls per turn": _real(group.calls.value),
        "turns with a bad action": _told(group.bad),
        "the same action twice in a row": _told(group.in_a_row),
        "an action taken before": _told(group.again),
        "ended by": stops,
    }


def _agreements(against: Mapping[str, Agreement]) -> Table:
    head = (
        "calls against",
        "turns",
        "precision",
        "recall",
        "with arguments: precision",
        "recall",
        "over-calling",
        "calls too many",
    )
    rows: list[Sequence[str]] = []
    for name, one in against.items():
        shares = (one.precision, one.recall, one.exact_precision, one.exact_recall, one.over_calling)
        rows.append((name, str(one.turns), *map(_told, shares), str(one.excess)))
    return head, rows


def _teachers(teachers: Mapping[str, Taught]) -> Table:
    head = ("teacher", "tokens", "KL (log p - log q)", "k", "taken in its top k", "mass", "overlap")
    rows: list[Sequence[str]] = []
    for name, one in teachers.items():
        sizes = ", ".join(map(str, sorted(one.k))) or NOTHING
        shares = _told(one.in_top), _real(one.mass.value), _told(one.overlap)
        rows.append((name, str(one.kl.n), _real(one.kl.value), sizes, *shares))
    return head, rows


def _depths(group: Group) -> Table:
    teachers = sorted({name for depth in group.depths.values() for name in depth.kl})
    terms = sorted({name for depth in group.depths.values() for name in depth.divergence})
    head = (
        "turn",
        "turns",
        "with a bad action",
        *(f"KL {name}" for name in teachers),
        *(f"{n} divergence" for n in terms),
    )
    rows: list[Sequence[str]] = []
    for turn in sorted(group.depths):
        one = group.depths[turn]
        means = [one.kl.get(name) for name in teachers] + [one.divergence.get(name) for name in terms]
        told = [NOTHING if mean is None else _real(mean.value) for mean in means]
        rows.append((str(turn), str(one.turns), _told(Share(one.bad, one.turns)), *told))
    return head, rows


def _tools(group: Group) -> Table:
    head = ("tool", "calls", "ok", "errors", "seconds", "longest", "cut")
    rows: list[Sequence[str]] = []
    for name, one in _by_calls(group):
        errors = ", ".join(f"{kind} {count}" for kind, count in one.outcomes.most_common() if kind != "ok") or NOTHING
        ok = _told(Share(one.outcomes["ok"], one.calls))
        rows.append(
            (name, str(one.calls), ok, errors, *map(_real, (one.seconds.value, one.seconds.most)), str(one.cut))
        )
    return head, rows


def _told(share: Share) -> str:
    return f"{100 * share.value:.1f}%" if share.n else NOTHING


def _real(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.4g}"
