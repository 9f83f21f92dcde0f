"""Robust least squares on log residuals: many fits at once, so that a bootstrap of many starts takes a second.

What is minimised is sum_m h((ln f(x_m) - ln y_m) / s_m), with h Huber's loss and s_m the standard error of ln y_m, as Hoffmann et al. fit
(arXiv 2203.15556, section 3.3; they know no s_m). The steps are those of Levenberg and Marquardt on the weights of Huber's loss, within bounds.
"""

from dataclasses import dataclass

import numpy as np

from agentopd.scaling.laws import Floats, Law

HUBER = 1.345
"""In standard errors, beyond which a residual counts by its size alone: 95% as efficient as squares where noise is normal (Huber 1981)."""
ITERATIONS = 60
_STEP = 1.0
"""Of a logarithm, at most."""
_CLOSE = 1e-7
"""The relative decrease below which a fit has ended."""


@dataclass(frozen=True, slots=True)
class _State:
    """Where fits stand."""

    theta_R_P: Floats
    residual_R_M: Floats
    slope_R_M_P: Floats
    loss_R: Floats

    def better(self, other: "_State") -> "_State":
        """Fit by fit the one with the smaller loss."""
        moved_R = other.loss_R <= self.loss_R
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__slots__)
        return _State(*(np.where(moved_R.reshape(-1, *[1] * (old.ndim - 1)), new, old) for old, new in pairs))


def minimised(
    law: Law, theta_R_P: Floats, log_y_R_M: Floats, x_M_K: Floats, error_M: Floats, bounds: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Fits of ``law`` from each start to its own data: parameters, [R, P], and losses, [R].

    Args:
        law: What is fitted.
        theta_R_P: Where each fit starts.
        log_y_R_M: What each is fitted to.
        x_M_K: Of the points.
        error_M: The standard error of each point's ln y.
        bounds: Of theta, low and high, [P] each.
    """
    low_P, high_P = bounds

    def at(theta_R_P: Floats) -> _State:
        log_R_M, slope_R_M_P = law.evaluate(theta_R_P, x_M_K)
        residual_R_M = (log_R_M - log_y_R_M) / error_M
        return _State(theta_R_P, residual_R_M, slope_R_M_P / error_M[:, None], huber(residual_R_M).sum(axis=1))

    state = at(np.clip(theta_R_P, low_P, high_P))
    damping_R = np.full(len(theta_R_P), 1e-2)
    for _ in range(ITERATIONS):
        moved = at(np.clip(state.theta_R_P + _step(state, damping_R, low_P, high_P), low_P, high_P))
        decrease_R = state.loss_R - moved.loss_R
        damping_R = np.clip(damping_R * np.where(decrease_R >= 0, 0.3, 4.0), 1e-9, 1e9)
        state = state.better(moved)
        if not (decrease_R > _CLOSE * state.loss_R).any() and (damping_R < 1.0).all():
            break
    return state.theta_R_P, state.loss_R


def huber(residual: Floats) -> Floats:
    """Huber's loss of standardised residuals."""
    size = np.abs(residual)
    return np.where(size <= HUBER, residual**2 / 2, HUBER * size - HUBER**2 / 2)


def _step(state: _State, damping_R: Floats, low_P: Floats, high_P: Floats) -> Floats:
    """A damped Gauss-Newton step; parameters that lie at a bound and would leave it stay."""
    weight_R_M = np.minimum(1.0, HUBER / np.maximum(np.abs(state.residual_R_M), HUBER))
    weighted_R_P_M = (state.slope_R_M_P * weight_R_M[..., None]).transpose(0, 2, 1)
    gradient_R_P = (weighted_R_P_M @ state.residual_R_M[..., None])[..., 0]
    curvature_R_P_P = weighted_R_P_M @ state.slope_R_M_P
    out_R_P = ((state.theta_R_P <= low_P) & (gradient_R_P > 0)) | ((state.theta_R_P >= high_P) & (gradient_R_P < 0))
    curvature_R_P_P = np.where(out_R_P[:, None] | out_R_P[..., None], 0.0, curvature_R_P_P)
    diagonal_R_P = np.diagonal(curvature_R_P_P, axis1=1, axis2=2)
    added_R_P = damping_R[:, None] * np.maximum(diagonal_R_P, 1e-6) + out_R_P
    curvature_R_P_P = curvature_R_P_P + added_R_P[..., None] * np.eye(added_R_P.shape[1])
    gradient_R_P = np.where(out_R_P, 0.0, gradient_R_P)
    return np.clip(-np.linalg.solve(curvature_R_P_P, gradient_R_P[..., None])[..., 0], -_STEP, _STEP)
