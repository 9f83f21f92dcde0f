"""The student as its own teacher: fixed, every few steps, or an average; whole or as an adapter."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from teacher_cases import context, episode, tiny_llama
from torch import Tensor, nn

from agentopd.errors import ConfigError
from agentopd.freezing import AdapterOff, Twin
from agentopd.models import head_of
from agentopd.rollout import Request, Rollout, TransformersPolicy
from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, Teacher, build_teachers
from agentopd.types import Dense

EPISODES = [episode("..000.11", seed=1), episode("...0.1", ".22", seed=2)]


def whole() -> Any:
    return tiny_llama(0)


def in_adapter() -> Any:
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_llama(0), lora)
    for i, (_, parameter) in enumerate(trained(model)):
        parameter.data.normal_(std=0.5, generator=torch.Generator().manual_seed(i))
    return model


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def made(student: Any, **settings: Any) -> Teacher:
    choice, ours = OneOf("teacher", TEACHERS).validate({"kind": "self"} | settings), context()
    lent: Callable[[], Any] = lambda: student  # noqa: E731
    return build_teachers({"old": choice}, ours.chat, ours.load, 1.0, lent, lent)["old"]


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trained(model)}


def step(student: nn.Module, number: int) -> dict[str, Tensor]:
    """An optimiser step; the values after it."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for _, parameter in trained(student):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return values(student)


def with_values(student: nn.Module, held: dict[str, Tensor]) -> Any:
    """Another model that has them, in evaluation mode."""
    other = copy.deepcopy(student).eval()
    for name, parameter in trained(other):
        parameter.data = held[name].clone()
    return other


def taken(model: Any) -> list[float]:
    """The log-probability of each action token, by a plain forward."""
    found: list[float] = []
    for one in EPISODES:
        for segment in one.segments:
            ids_T = torch.from_numpy(segment.tokens_T).long()
            with torch.no_grad():
                logq_T_V = model(input_ids=ids_T[None]).logits[0].log_softmax(-1)
            found += [float(logq_T_V[t - 1, ids_T[t]]) for t in np.flatnonzero(segment.turn_T >= 0)]
    return found


def said(teacher: Teacher) -> list[float]:
    return [float(value) for one in teacher.annotate(EPISODES) for value in one.taken_logprob_N]


@pytest.mark.parametrize("student", [whole(), in_adapter()])
def test_every_second_step_it_becomes_the_student(student: Any) -> None:
    student.train()
    teacher, begun = made(student, every=2), values(student)
    expected, versions = [begun], [0]
    for number in range(1, 6):
        after = step(student, number)
        teacher.after_step(student)
        expected.append(after if number % 2 == 0 else expected[-1])
        versions.append(number // 2)
        np.testing.assert_allclose(said(teacher), taken(with_values(student, expected[-1])), rtol=1e-4, atol=1e-5)
        assert teacher.version == versions[-1]
        assert all(torch.equal(parameter, after[name]) for name, parameter in trained(student))
    assert student.training


@pytest.mark.parametrize("student", [whole(), in_adapter()])
@pytest.mark.parametrize(("every", "rate"), [(None, 0.25), (2, 0.5)])
def test_the_average_by_hand(student: Any, every: int | None, rate: float) -> None:
    """t <- t + rate (s - t) after each step that counts, in float64 beside it."""
    teacher = made(student, every=every, average=rate)
    held = {name: value.double() for name, value in values(student).items()}
    for number in range(1, 5):
        after = step(student, number)
        teacher.after_step(student)
        if number % (every or 1) == 0:
            held = {name: held[name] + rate * (after[name].double() - held[name]) for name in held}
    assert isinstance(teacher.model, Twin)
    for name, value in teacher.model.weights.items():
        torch.testing.assert_close(value.double(), held[name], rtol=1e-5, atol=1e-6)
    expected = with_values(student, {name: value.float() for name, value in held.items()})
    np.testing.assert_allclose(said(teacher), taken(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("student", [whole(), in_adapter()])
@pytest.mark.parametrize("every", [None, 2])
def test_between_its_start_and_the_student_by_hand(student: Any, every: int | None) -> None:
    """t = s_0 + a (s - s_0) after each step that counts; going on from its state changes nothing."""
    teacher, begun = made(student, every=every, interpolate=0.25), values(student)
    held = begun
    for number in range(1, 6):
        after = step(student, number)
        teacher.after_step(student)
        if number % (every or 1) == 0:
            held = {name: begun[name] + 0.25 * (after[name] - begun[name]) for name in begun}
        np.testing.assert_allclose(said(teacher), taken(with_values(student, held)), rtol=1e-4, atol=1e-4)
        if number == 3:
            later = made(student, every=every, interpolate=0.25)  # of a student that has moved on
            later.restore(copy.deepcopy(teacher.state()))
            teacher = later


def test_following_and_staying_between_exclude_each_other() -> None:
    with pytest.raises(
        ConfigError, match=r"^teachers\.old\.average=0.5: it follows the student, and interpolate=0.5 stays"
    ):
        made(whole(), average=0.5, interpolate=0.5)


@pytest.mark.parametrize("student", [whole(), in_adapter()])
def test_by_default_it_stays_the_student_as_it_began(student: Any) -> None:
    teacher = made(student)
    before = said(teacher)
    for number in range(3):
        step(student, number)
        teacher.after_step(student)
    assert said(teacher) == before
    assert teacher.version == 0
    assert teacher.state() == {}
    assert isinstance(teacher.model, AdapterOff) == hasattr(student, "peft_config")
    begun = tiny_llama(0)  # which the adapter was put into
    np.testing.assert_allclose(before, taken(begun), rtol=1e-4, atol=1e-5)


def test_its_dense_block_has_its_own_head_where_the_head_is_trained_too() -> None:
    student = whole()
    teacher, begun = made(student, every=2), head_of(whole())
    step(student, 1)
    [one, *_] = teacher.annotate(EPISODES)
    assert isinstance(one.block, Dense)
    head = teacher.heads[one.block.head]
    assert torch.equal(head.weight_V_H, begun.weight_V_H)
    assert not torch.equal(head.weight_V_H, head_of(student).weight_V_H)
    logq_N_V = head.logits(one.block.hidden_N_H).log_softmax(-1)
    tokens = [int(EPISODES[0].segments[s].tokens_T[t]) for s, t in zip(one.segment_N, one.index_N, strict=True)]
    np.testing.assert_allclose(logq_N_V[range(len(tokens)), tokens].detach(), one.taken_logprob_N, rtol=1e-5)
    for _ in range(2):
        teacher.after_step(student)
    assert torch.equal(head.weight_V_H, head_of(student).weight_V_H)  # who holds the head sees it follow
    assert not head.weight_V_H.requires_grad


def test_a_tied_head_follows_with_the_embeddings() -> None:
    student = whole()
    student.lm_head.weight = student.model.embed_tokens.weight
    twin = Twin(student)
    step(student, 1)
    assert torch.equal(head_of(twin).weight_V_H, twin.weights["model.embed_tokens.weight"])


def test_what_is_frozen_is_shared_and_the_rest_alone_is_copied() -> None:
    student = whole()
    student.requires_grad_(False)
    student.model.layers[1].mlp.requires_grad_(True)
    twin = Twin(student)
    assert set(twin.weights) == {name for name, _ in student.named_parameters() if "layers.1.mlp" in name}
    assert head_of(twin).weight_V_H is student.lm_head.weight
    assert not list(twin.parameters())


@pytest.mark.parametrize("student", [whole(), in_adapter()])
def test_after_an_error_the_student_has_its_own_values_in_their_own_memory(student: Any) -> None:
    twin = Twin(student)
    held = step(student, 1)
    places = {name: parameter.data_ptr() for name, parameter in student.named_parameters()}
    with pytest.raises(ZeroDivisionError), twin.seen():
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="exactly one of input_ids"):
        twin()
    assert places == {name: parameter.data_ptr() for name, parameter in student.named_parameters()}
    assert all(torch.equal(parameter, held[name]) for name, parameter in trained(student))


def test_small_steps_of_an_average_are_not_lost_in_half_precision() -> None:
    """From 1 to 1 + 1/64 at the rate 1/100: each step is below half the distance of two numbers of bfloat16."""
    student = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    student.weight.data.fill_(1.0)
    twin = Twin(student)
    student.weight.data.fill_(1.0 + 1 / 64)
    for _ in range(200):
        twin.approach(0.01)
    expected = 1.0 + (1 - 0.99**200) / 64
    assert float(twin.weights["weight"]) == pytest.approx(expected, rel=1e-6)
    with twin.seen():
        assert student.weight.dtype == torch.bfloat16
        assert torch.equal(student.weight.data, torch.full((1, 1), expected).bfloat16())


@pytest.mark.parametrize("student", [whole(), in_adapter()])
def test_it_acts_by_its_own_weights(student: Any) -> None:
    teacher, begun = made(student, every=3), with_values(student, values(student))
    step(student, 1)
    played = {}
    for name, model in {"teacher": teacher.model, "begun": begun, "student": student}.items():
        policy = TransformersPolicy(cast(Any, model), 7, Rollout())
        [generation] = policy.act([Request(0, [5, 6, 9], seed=3, max_new_tokens=12)])
        played[name] = generation.tokens
    assert played["teacher"] == played["begun"] != played["student"]


@pytest.mark.parametrize("student", [whole, in_adapter])
@pytest.mark.parametrize("settings", [{"average": 0.3}, {"every": 2}, {"every": 2, "average": 0.5}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_goes_on_from_its_state_bit_for_bit(
    student: Callable[[], Any], settings: dict[str, Any], dtype: torch.dtype
) -> None:
    one, other = student().to(dtype), student().to(dtype)
    teacher, again = made(one, **settings), made(other, **settings)
    for number in range(1, 6):
        step(one, number)
        teacher.after_step(one)
        if number == 1:  # before the first move, where there are two steps to one
            kept = teacher.state()
    for number in range(1, 6):
        step(other, number)
        if number == 1:
            again.restore(kept)
        else:
            again.after_step(other)
    assert isinstance(teacher.model, Twin)
    assert isinstance(again.model, Twin)
    assert again.version == teacher.version
    ours, theirs = teacher.model.weights, again.model.weights
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert said(teacher) == said(again)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"average": 0.0}, {"average": 1.5}])
def test_settings_without_a_meaning_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OneOf("teacher", TEACHERS).validate({"kind": "self"} | wrong)


def test_a_malformed_hint_is_told_as_the_teachers() -> None:
    with pytest.raises(ConfigError, match=r"^teachers\.old\.hint='\{': "):
        made(whole(), hint="{")
