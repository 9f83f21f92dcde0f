"""Every shipped recipe: its loss and gradient are those of its paper's formula, evaluated on its own in float64."""

import math

import pytest
import torch
from recipe_cases import models, recipe, world
from recipe_formulas import FORMULAS, NO_FORMULA, SURROGATES

from agentopd.acting import Moment, Turns
from agentopd.config.shipped import recipes
from agentopd.settings.choice import at
from agentopd.settings.clock import Clock

MOMENTS = [(0, 0.0), (4, 0.8), (9, 0.8)]
"""Steps, and how far in nats the policy that acted is from the student: at 0 by itself, so that no ratio is clipped."""


@pytest.mark.parametrize(("step", "noise"), MOMENTS)
@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_a_recipe_has_the_loss_and_the_gradient_of_its_formula(name: str, step: int, noise: float) -> None:
    student, heads = models()
    ready, seen = world(recipe(name), step, noise)
    assert all(term.idle is None for term in ready.terms)
    formula, found = FORMULAS[name](seen), student.loss(ready, heads).loss
    if name not in SURROGATES:
        torch.testing.assert_close(found, formula, rtol=1e-8, atol=1e-12)
    wanted = torch.autograd.grad(formula, student.parameters)
    for one, other in zip(torch.autograd.grad(found, student.parameters), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_a_discriminator_rewards_once_it_is_warm() -> None:
    test_a_recipe_has_the_loss_and_the_gradient_of_its_formula("gad", 30, 0.8)


def test_every_recipe_has_a_formula_here_or_a_reason_why_not() -> None:
    assert sorted([*FORMULAS, *NO_FORMULA]) == sorted(recipes())


@pytest.mark.parametrize("step", [0, 1, 7, 40, 60, 99])
def test_samplers_follow_the_schedules_of_their_papers(step: int) -> None:
    clock, depth = Clock(step, 100), min(1 + step // 2, 30)
    forward, backward, guided, mixed, prefix = (
        recipe(name).sources["fresh"]
        for name in ("tcod-f2b", "tcod-b2f", "guided-opd", "revisiting-dagger", "prefix-opd")
    )
    assert at(forward.max_turns, clock, "") == depth
    acting = backward.acts(clock)
    assert [acting.who(Moment(turn, 0.0, shown_turns=40)) == "expert" for turn in range(40)] == [
        turn < 40 - depth for turn in range(40)
    ]
    handed, helped = guided.acts(clock), mixed.acts(clock)
    assert isinstance(handed, Turns)
    assert isinstance(helped, Turns)
    assert handed.probability == pytest.approx(0.5 * (1 + math.cos(math.pi * min(step / (0.8 * 99), 1))))
    assert helped.probability == pytest.approx(0.5 * max(1 - step / (0.5 * 99), 0))
    assert prefix.max_episode_tokens == 32
