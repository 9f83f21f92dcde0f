"""A law fitted to points: its parameters with intervals, what it says elsewhere, and its error on the largest size, left out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agentopd.errors import ConfigError
from agentopd.evaluation import CONFIDENCE, Interval
from agentopd.scaling.fitting import minimised
from agentopd.scaling.laws import LAWS, Floats, bounds, is_exponent, starts
from agentopd.scaling.points import NOUNS, SAME, Point, errors_of, lacking, require_positive, variables_of

RESAMPLES = 300
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
_NEAR = 1.1
"""The factor within which a parameter lies at its bound."""
_NONE = 10.0
"""The same for the lower bound of a coefficient, which stands for 0."""
WRONG = 2.0
"""So many times the error that is to be expected on points that were left out tells that a law is wrong there."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of a law: ``value`` and its interval; ``None`` where the points do not bound it on that side."""

    name: str
    value: float
    low: float | None
    high: float | None

    @property
    def determined(self) -> bool:
        """On both sides."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True, slots=True)
class Fitted:
    """A law with its parameters, and as many draws of them as there are resamples."""

    law: str
    variables: tuple[str, ...]
    reference: Mapping[str, float]
    """The geometric means of the points, by which variables are divided."""
    theta_P: Floats
    draw_R_P: Floats
    """Logarithms, as ``theta_P``."""
    bounds: tuple[Floats, Floats]
    misfit: float
    """The root mean square of residuals in standard errors, 1 where the law is right and errors are as they are taken to be."""

    @property
    def parameters(self) -> list[Parameter]:
        """With 95% intervals."""
        names, (low_P, high_P) = LAWS[self.law].parameters(self.variables), self.bounds
        ends_P = np.quantile(self.draw_R_P, _TAILS, axis=0).T
        return [
            Parameter(
                name,
                float(np.exp(value)),
                float(np.exp(low)) if low > least + math.log(_NEAR if is_exponent(name) else _NONE) else None,
                float(np.exp(high)) if high < most - math.log(_NEAR) else None,
            )
            for name, value, (low, high), least, most in zip(names, self.theta_P, ends_P, low_P, high_P, strict=True)
        ]

    def logs(self, theta_R_P: Floats, x: Sequence[Mapping[str, float]]) -> Floats:
        """ln y at some places, for each set of parameters, [R, M]."""
        x_M_K = np.log([[place[name] / self.reference[name] for name in self.variables] for place in x])
        return LAWS[self.law].evaluate(theta_R_P, x_M_K.reshape(len(x), len(self.variables)))[0]

    def value(self, x: Mapping[str, float]) -> float:
        """y at a place."""
        return float(np.exp(self.logs(self.theta_P[None], [x])[0, 0]))

    def interval(self, x: Mapping[str, float]) -> Interval:
        """Of the law at a place, 95%: where runs' mean lies if the law holds there, not where one run does."""
        low, high = np.quantile(np.exp(self.logs(self.draw_R_P, [x])[:, 0]), _TAILS)
        return Interval(float(low), float(high))


@dataclass(frozen=True, slots=True)
class Heldout:
    """A law fitted without the largest points, and what it says of them."""

    law: str
    error: float
    """The root mean square of ln(foretold / seen)."""
    expected: float
    """What that would be of a law that holds: by the error of the points, and of the fit."""

    @property
    def wrong(self) -> bool:
        """Whether the law is told to be wrong there."""
        return self.error > WRONG * self.expected


@dataclass(frozen=True, slots=True)
class Scaling:
    """A law of points, and what to think of it."""

    points: tuple[Point, ...]
    error_M: Floats
    """Of each point's ln y."""
    fitted: Fitted
    held_by: str | None
    """The variable whose largest value was left out; ``None`` where too few points would be left."""
    heldout: tuple[Heldout, ...]
    """Of the law itself, then of the others."""
    notes: tuple[str, ...]


def scaling(points: Sequence[Point], law: str = "saturating") -> Scaling:
    """Fits a law.

    Args:
        points: What to.
        law: A name of :data:`LAWS`.

    Raises:
        ConfigError: The points are too few to determine it, or one of them has no logarithm.
    """
    require_positive(points)
    one_seed = _one_seed(points)
    variables, notes = variables_of(points)
    if lack := lacking(points, variables, law):
        raise ConfigError(
            f"{lack}; train more, or fit --law power, which has fewer parameters" if law == "saturating" else lack
        )
    found = fit(points, variables, law)
    held_by, heldout, why = _held_out(points, variables, law)
    return Scaling(tuple(points), errors_of(points), found, held_by, heldout, (*notes, *why, *one_seed))


def fit(points: Sequence[Point], variables: Sequence[str], law: str) -> Fitted:
    """The law that is nearest to points, and to each resample of them.

    In a resample every point is drawn anew around the law, with its standard error (the parametric bootstrap). Seeds themselves are not
    drawn: of three there are ten different resamples (:func:`errors_of`). Where points lie farther from the law than their errors say, these
    are widened by as much.
    """
    form, names = LAWS[law], LAWS[law].parameters(variables)
    y_M, error_M = np.array([one.y for one in points]), errors_of(points)
    at_M_K = np.log([[one.x[name] for name in variables] for one in points])
    centre_K = at_M_K.mean(axis=0)
    x_M_K, within, begin_R_P = at_M_K - centre_K, bounds(names, y_M), starts(names, y_M)
    log_R_M = np.tile(np.log(y_M), (len(begin_R_P), 1))
    theta_R_P, loss_R = minimised(form, begin_R_P, log_R_M, x_M_K, error_M, within)
    best_P = theta_R_P[loss_R.argmin()]
    law_M = form.evaluate(best_P[None], x_M_K)[0][0]
    misfit = math.sqrt(float((((log_R_M[0] - law_M) / error_M) ** 2).sum()) / (len(points) - len(names)))
    noise_R_M = np.random.default_rng(0).standard_normal((RESAMPLES, len(points)))
    few_S_P = np.stack([best_P, begin_R_P[0], begin_R_P[len(begin_R_P) // 2]])
    drawn_R_M = np.tile(law_M + max(misfit, 1.0) * error_M * noise_R_M, (len(few_S_P), 1))
    every_P, losses = minimised(form, np.repeat(few_S_P, RESAMPLES, axis=0), drawn_R_M, x_M_K, error_M, within)
    chosen_R = losses.reshape(-1, RESAMPLES).argmin(axis=0)
    draw_R_P = every_P.reshape(-1, RESAMPLES, len(names))[chosen_R, np.arange(RESAMPLES)]
    reference = dict(zip(variables, np.exp(centre_K).tolist(), strict=True))
    return Fitted(law, tuple(variables), reference, best_P, draw_R_P, within, misfit)


def _held_out(
    points: Sequence[Point], variables: Sequence[str], law: str
) -> tuple[str | None, tuple[Heldout, ...], list[str]]:
    """The error of every law on the largest size, or where sizes are one on the largest of what varies; and what to say of it."""
    by = variables[0]
    x_M = np.array([one.x[by] for one in points])
    out_M = x_M > x_M.max() / SAME
    left, kept = ([one for one, out in zip(points, out_M, strict=True) if out == which] for which in (True, False))
    if lack := lacking(kept, variables, law):
        return None, (), [f"no error on points that are left out: without the largest {NOUNS[by]} {lack}"]
    found = []
    for name in (law, *(other for other in LAWS if other != law)):
        if lacking(kept, variables, name):
            continue
        fitted, error_M = fit(kept, variables, name), errors_of(points)[out_M]
        places, seen_M = [one.x for one in left], np.log([one.y for one in left])
        off_M = fitted.logs(fitted.theta_P[None], places)[0] - seen_M
        spread_M = fitted.logs(fitted.draw_R_P, places).std(axis=0)
        found.append(Heldout(name, _rms(off_M), _rms(np.hypot(error_M, spread_M))))
    return by, tuple(found), list(_judged(found, by))


def _judged(found: Sequence[Heldout], by: str) -> list[str]:
    own, told = found[0], []
    if own.wrong:
        told.append(
            f"the {own.law} law, fitted without the largest {NOUNS[by]}, misses it by a factor of {np.exp(own.error):.2f}, and {np.exp(own.expected):.2f} "
            "is what chance and the fit's own error make: it does not hold there"
        )
    better = [one for one in found[1:] if one.error < own.error]
    if better:
        told.append(
            f"the largest {NOUNS[by]} is foretold no worse by {' and '.join(f'the {one.law} law' for one in better)}, so these runs do not show that the "
            f"{own.law} law is the right one"
        )
    return told


def _rms(values: Floats) -> float:
    return float(np.sqrt((values**2).mean()))


def _one_seed(points: Sequence[Point]) -> list[str]:
    if any(len(one.y_S) > 1 for one in points):
        return []
    if points[0].tasks is None:
        raise ConfigError(
            "every point has one seed, so that nothing says how far seeds lie apart; train two seeds or more"
        )
    return ["every point has one seed: intervals hold the chance of the panel alone, and not how far seeds lie apart"]
