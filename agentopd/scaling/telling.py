"""What a law says, as tables and sentences."""

import math
from collections.abc import Iterator, Sequence

from agentopd.scaling.cost import BEYOND, Split
from agentopd.scaling.kept import Expected
from agentopd.scaling.laws import LAWS, SYMBOLS, is_exponent
from agentopd.scaling.points import NOUNS, in_words
from agentopd.scaling.runs import MEASURES
from agentopd.scaling.whole import Fitted, Parameter, Scaling

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def formula(fitted: Fitted) -> str:
    """The law with the variables that it has, such as ``y = E + A (N/1.2e+06)^-a_N``."""
    names = LAWS[fitted.law].parameters(fitted.variables)
    exponents = [name for name in names if is_exponent(name)]
    powers = [
        f"({SYMBOLS[variable]}/{fitted.reference[variable]:.3g})^-{exponent}"
        for variable, exponent in zip(fitted.variables, exponents, strict=False)
    ]
    heads = [name for name in names if not is_exponent(name)]
    if fitted.law == "saturating":
        return "y = " + " + ".join(
            [heads[0], *(f"{head} {power}" for head, power in zip(heads[1:], powers, strict=True))]
        )
    return "y = " + " ".join([*heads, *powers])


def tables(found: Scaling) -> Iterator[Table]:
    """Parameters, then errors on the points that were left out, then the points."""
    yield ("parameter", "value", "95% interval"), [(one.name, *shown(one)) for one in found.fitted.parameters]
    if found.held_by is not None:
        yield (
            (f"fitted without the largest {NOUNS[found.held_by]}", "error there", "by chance", ""),
            [
                (one.law, _factor(one.error), _factor(one.expected), "wrong" if one.wrong else "within chance")
                for one in found.heldout
            ],
        )
    yield (
        ("point", *found.fitted.variables, "seeds", "y", "law", "residual"),
        [
            (
                one.name,
                *(f"{one.x[name]:,.0f}" for name in found.fitted.variables),
                str(len(one.y_S)),
                f"{one.y:.4g}",
                f"{found.fitted.value(one.x):.4g}",
                f"{residual:+.1f}",
            )
            for one, residual in zip(found.points, residuals(found), strict=True)
        ],
    )


def residuals(found: Scaling) -> list[float]:
    """ln(seen / law), in standard errors."""
    return [
        math.log(one.y / found.fitted.value(one.x)) / error
        for one, error in zip(found.points, found.error_M.tolist(), strict=True)
    ]


def shown(one: Parameter) -> tuple[str, str]:
    """A parameter's value and interval; no number that the points do not determine."""
    if one.low is not None and one.high is not None:
        return f"{one.value:.3g}", f"[{one.low:.3g}, {one.high:.3g}]"
    if one.high is not None:
        return "not determined", f"at most {one.high:.3g}" + ("" if is_exponent(one.name) else ", not told from 0")
    return "not determined", f"at least {one.low:.3g}" if one.low is not None else "any"


def sentences(found: Scaling, measure: str, best: Split | None) -> Iterator[str]:
    """What the tables do not say."""
    yield f"law: {formula(found.fitted)}, y the {MEASURES[measure]}"
    yield (
        f"fit: {len(found.points)} points, {sum(len(one.y_S) for one in found.points)} runs; residuals are {found.fitted.misfit:.2f} times what seeds"
        f"{' and the panel' if found.points[0].tasks else ''} make"
    )
    if best is not None:
        yield from _split(found, best)


def _split(found: Scaling, best: Split) -> Iterator[str]:
    cost = best.cost
    yield (
        f"cost: an episode takes {cost.scale:.3g} {cost.unit} at {cost.reference:,.0f} parameters, and goes with their power of {cost.exponent:.2f}"
    )
    if not best.determined:
        yield f"split: these runs do not determine the size for which {best.budget:.3g} {cost.unit} are best spent"
        return
    if best.at_end:
        yield f"split: no size within the sizes looked at is best for {best.budget:.3g} {cost.unit}: y falls towards {best.parameters:.3g} parameters"
        return
    sizes = [one.x["parameters"] for one in found.points]
    counts = [one.x["episodes"] for one in found.points]
    beyond = [
        name
        for name, value, values in (("parameters", best.parameters, sizes), ("episodes", best.episodes, counts))
        if not min(values) <= value <= max(values)
    ]
    yield (
        f"split: {best.budget:.3g} {cost.unit} are best spent on {best.parameters:.3g} parameters {_between(best, sizes)} and "
        f"{best.episodes:,.0f} episodes, where y is {best.y:.4g}{f' ({in_words(beyond)} extrapolated)' if beyond else ''}"
    )


def _between(best: Split, sizes: Sequence[float]) -> str:
    """The interval of the best size; an end of what is looked at is none of its own."""
    low, high = (f"{end:.3g}" for end in best.interval)
    less = " or less" if math.isclose(best.interval.low, min(sizes) / BEYOND) else ""
    more = " or more" if math.isclose(best.interval.high, max(sizes) * BEYOND) else ""
    return f"[{low}{less}, {high}{more}]"


def lines_of(found: Expected) -> Iterator[str]:
    """What a law says of a planned run."""
    at = ", ".join(f"{value:,.0f} {name.replace('_', ' ')}" for name, value in found.x.items())
    low, high = found.interval
    told = f"divergence {found.value:.3g} [{low:.3g}, {high:.3g}]"
    if found.measure == "error":
        best, value, worst = (100 * max(1 - y, 0.0) for y in (low, found.value, high))
        told = f"success {value:.1f}% [{worst:.1f}, {best:.1f}]"
    yield f"law: {told} expected at {at}"
    for note in found.notes:
        yield f"note: {note}"


def _factor(logarithm: float) -> str:
    return f"x{math.exp(logarithm):.3f}"
