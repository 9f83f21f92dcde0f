"""The laws that are fitted, as log y with its gradient, of many parameter sets at once.

Suffixes: R parameter sets, M points, K variables, P parameters. ``x_M_K`` is ln(variable / reference), so that a coefficient is what its term
is at the reference, and ``theta_R_P`` holds logarithms, so that every parameter is positive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEAST, MOST = 0.03, 4.0
"""Of an exponent: a term with a smaller one is a constant over these points, and with a larger one a step."""
SMALLEST = 1e-3
"""Of a coefficient, as a share of the smallest y: below it a term is none."""


@dataclass(frozen=True, slots=True)
class Law:
    """A form of y as a function of its variables."""

    formula: str
    parameters: Callable[[Sequence[str]], list[str]]
    """Their names: coefficients are capitals, exponents begin with a small letter."""
    evaluate: Callable[[Floats, Floats], tuple[Floats, Floats]]
    """``theta_R_P, x_M_K`` to ln y, [R, M], and its derivatives by theta, [R, M, P]."""


def saturating(theta_R_P: Floats, x_M_K: Floats) -> tuple[Floats, Floats]:
    """y = E + sum_k A_k x_k^-a_k."""
    value_R_P = np.exp(theta_R_P)
    floor_R, exponent_R_K = value_R_P[:, 0], value_R_P[:, 2::2]
    term_R_M_K = value_R_P[:, None, 1::2] * np.exp(-exponent_R_K[:, None] * x_M_K)
    y_R_M = floor_R[:, None] + term_R_M_K.sum(axis=2)
    slope_R_M_P = np.empty((*y_R_M.shape, theta_R_P.shape[1]))
    slope_R_M_P[..., 0] = floor_R[:, None]
    slope_R_M_P[..., 1::2] = term_R_M_K
    slope_R_M_P[..., 2::2] = -term_R_M_K * exponent_R_K[:, None] * x_M_K
    return np.log(y_R_M), slope_R_M_P / y_R_M[..., None]


def power(theta_R_P: Floats, x_M_K: Floats) -> tuple[Floats, Floats]:
    """y = A prod_k x_k^-a_k."""
    exponent_R_K = np.exp(theta_R_P[:, 1:])
    slope_R_M_P = np.ones((len(theta_R_P), len(x_M_K), theta_R_P.shape[1]))
    slope_R_M_P[..., 1:] = -exponent_R_K[:, None] * x_M_K
    return theta_R_P[:, :1] - exponent_R_K @ x_M_K.T, slope_R_M_P


def constant(theta_R_P: Floats, x_M_K: Floats) -> tuple[Floats, Floats]:
    """y = E."""
    return np.broadcast_to(theta_R_P, (len(theta_R_P), len(x_M_K))), np.ones((len(theta_R_P), len(x_M_K), 1))


SYMBOLS = {"parameters": "N", "episodes": "D", "teacher_tokens": "T"}
"""The variables, with what stands for them in formulas and in the names of exponents."""
_COEFFICIENTS = {"parameters": "A", "episodes": "B", "teacher_tokens": "C"}


def _terms(variables: Sequence[str]) -> list[str]:
    return [
        "E",
        *(name for one in variables for name in (_COEFFICIENTS[one], f"{_COEFFICIENTS[one].lower()}_{SYMBOLS[one]}")),
    ]


LAWS = {
    "saturating": Law("E + sum of A (x/x0)^-a over the variables", _terms, saturating),
    "power": Law(
        "A times the product of (x/x0)^-a", lambda names: ["A", *(f"a_{SYMBOLS[one]}" for one in names)], power
    ),
    "constant": Law("E", lambda names: ["E"], constant),
}
"""The first is that of Hoffmann et al. (arXiv 2203.15556, equation 10); the others have no irreducible term, and nothing but one."""


def is_exponent(name: str) -> bool:
    """Whether a parameter is one."""
    return name[0].islower()


def bounds(names: Sequence[str], y_M: Floats) -> tuple[Floats, Floats]:
    """The logarithms between which parameters are looked for."""
    smallest, largest = SMALLEST * float(y_M.min()), 10 * float(y_M.max())
    pairs = [(LEAST, MOST) if is_exponent(name) else (smallest, largest) for name in names]
    low_P, high_P = np.log(np.array(pairs)).T
    return low_P, high_P


def starts(names: Sequence[str], y_M: Floats) -> Floats:
    """The logarithms from which fits begin, [R, P]: shares of the smallest y that cannot be reduced, and exponents from flat to steep."""
    exponents = [name for name in names if is_exponent(name)]
    terms = max(len(names) - len(exponents) - 1, 1)
    begun = []
    for share in (0.05, 0.5, 0.95):
        floor = share * float(y_M.min())
        each = (float(y_M.mean()) - floor) / terms
        for steep in product((0.15, 0.5, 1.5), repeat=len(exponents)):
            chosen = dict(zip(exponents, steep, strict=True))
            begun.append([chosen.get(name, floor if name == "E" else each) for name in names])
    found: Floats = np.log(np.array(begun))
    return found
