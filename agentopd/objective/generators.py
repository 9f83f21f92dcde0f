"""f-divergences by their generator, a convex function of the ratio q/p that is 0 at 1."""

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, TypeAlias

import torch
from pydantic import AfterValidator
from torch import Tensor

from agentopd.objective.floor import floored
from agentopd.settings.parts import OneOf
from agentopd.settings.signature import Registry

LIMIT = 20.0
"""A generator is evaluated at log-ratios of at most this size, in nats, and continued beyond."""
FLAT = 1.0e-4
"""The slope at these limits below which a generator is taken to have reached its bound."""

GENERATORS: Registry = {
    "squared_hellinger": lambda u: 0.5 * (u.sqrt() - 1.0).square(),
    "le_cam": lambda u: 0.5 * (u - 1.0).square() / (u + 1.0),
    "neyman": lambda u: (u - 1.0).square() / u,
}
"""Each maps ratios u = q/p to f(u), elementwise."""

Function: TypeAlias = Callable[[Tensor], Tensor]


def _known(generator: str) -> str:
    _slopes(_find(generator))
    return generator


def f(logp: Tensor, logq: Tensor, *, generator: Annotated[str, AfterValidator(_known)] = "squared_hellinger") -> Tensor:
    """The f-divergence sum p f(q/p) (Csiszar, 1967; of language models: f-distill, arXiv 2307.15190).

    ``generator`` names f: one of ``GENERATORS``, or an import path ``package.module:name`` of a function of a tensor of ratios
    u = q/p, elementwise and differentiable, convex, with f(1) = 0. It sees ratios from e^-20 to e^20 only. Beyond, p f(u) goes on
    along its tangent in log u as a multiple of q (above) or of p (below), which is again an f-divergence: p = 0 and q = 0 are
    safe, and a student that is far away keeps a gradient where the divergence has one. The forward and the reverse KL are
    not changed by that; what is steeper, such as chi-square, then grows like the forward KL; what is bounded stays so, since a
    slope below ``FLAT`` counts as 0.

    Args:
        logp: The student's log-probabilities, [..., V].
        logq: The teacher's, likewise.
        generator: The convex function, by its name or import path.
    """
    function = _find(generator)
    low, high = _slopes(function)
    logp, logq = floored(logp, logq)
    ratio = logq - logp
    inner = ratio.clamp(-LIMIT, LIMIT).exp()
    measure = torch.where(ratio > LIMIT, logq - LIMIT, logp).exp()
    value = measure * _applied(generator, function, inner)
    value = value + high * logq.exp() * (ratio - LIMIT).clamp_min(0.0)
    return (value + low * logp.exp() * (ratio + LIMIT).clamp_max(0.0)).sum(-1)


def _find(generator: str) -> Function:
    return OneOf("generator", GENERATORS).find(generator)


def _applied(name: str, function: Function, ratio: Tensor) -> Tensor:
    """f of each ratio.

    Raises:
        ValueError: The generator raised, or returned something else.
    """
    try:
        value = function(ratio)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a generator may be the user's code
        raise ValueError(
            f"generator {name} raised {type(error).__name__}: {error}; it is a function of a tensor of ratios"
        ) from error
    if not isinstance(value, Tensor) or value.shape != ratio.shape:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(
            f"generator {name} returned {got} for ratios of shape {tuple(ratio.shape)}; return f(u), elementwise"
        )
    return value


@lru_cache(maxsize=64)
def _slopes(function: Function) -> tuple[float, float]:
    """The slopes in log u of f(u) at the lower limit and of f(u) / u at the upper one.

    Raises:
        ValueError: The function is no generator.
    """
    name = getattr(function, "__name__", "f")
    with torch.inference_mode(False), torch.enable_grad():
        leaf = torch.linspace(-LIMIT, LIMIT, 81, dtype=torch.float64).exp().requires_grad_()
        given = _applied(name, function, leaf)
        if not given.requires_grad:
            raise ValueError(f"generator {name} lets no gradient through; use no detach and no comparison on the way")
        (slope,) = torch.autograd.grad(given.sum(), leaf)
    ratio, value = leaf.detach(), given.detach()
    if not value.isfinite().all() or not slope.isfinite().all():
        raise ValueError(
            f"generator {name} or its slope is not finite between e^-{LIMIT:g} and e^{LIMIT:g}; both must be"
        )
    if abs(float(value[40])) > 1e-6:
        raise ValueError(f"generator {name} is {float(value[40])} at 1; make it 0 where teacher and student agree")
    if (slope.diff() < -1e-6 * slope[1:].abs().clamp_min(1.0)).any():
        raise ValueError(f"generator {name} is not convex, so the sum would be no divergence; give a convex function")
    low, high = float(ratio[0] * slope[0]), float(slope[-1] - value[-1] / ratio[-1])
    return low if abs(low) > FLAT else 0.0, high if abs(high) > FLAT else 0.0
