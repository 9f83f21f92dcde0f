"""A discriminator: what it scores, what it learns from, and that it goes on as it was."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from teacher_cases import context, episode, tiny_llama
from torch import Tensor, nn
from transformers import PreTrainedModel

from agentopd.adapters import adapted
from agentopd.config import load_config
from agentopd.errors import ConfigError, TeacherError
from agentopd.teachers import annotate
from agentopd.teachers.discriminator import Compared, Discriminator, discriminator
from agentopd.types import Task, Trajectory
from agentopd.where import Where

STUDENT = tiny_llama(3)


def judge(student: PreTrainedModel = STUDENT, **settings: Any) -> Discriminator:
    made = discriminator(replace(context("judge"), student=lambda: student), **{"learning_rate": 0.01, **settings})
    assert isinstance(made, Discriminator)
    return made


def played(layout: str, seed: int, task: int, actor: str = "student", **more: Any) -> Trajectory:
    return replace(episode(layout, seed=seed, actors=(actor,), **more), task=Task("test/Env-v0", task))


BATCH = [
    played("..0.1", 0, 0),
    played("...00", 1, 0),
    played("..0.1.22", 2, 0, "expert"),
    played("..0", 3, 1),
    played("..0.11", 4, 1, "expert"),
    played("..00", 5, 2),  # nobody shows how
]
PAIRS = [(2, 0), (2, 1), (4, 3)]


def rewards(teacher: Discriminator, batch: Sequence[Trajectory] = BATCH) -> list[list[float]]:
    return [record.annotations[0].reward_S.tolist() for record in annotate({"judge": teacher}, batch)]


class Plain(nn.Module):
    """The same in a few lines: every episode read by itself."""

    def __init__(self, student: PreTrainedModel) -> None:
        super().__init__()
        self.body, self.head = copy.deepcopy(student).model, torch.zeros(16, requires_grad=True)

    def score(self, trajectory: Trajectory) -> Tensor:
        segment = trajectory.segments[-1]
        end = max(t for t in range(len(segment)) if segment.turn_T[t] >= 0) + 1
        hidden: Tensor = self.body(torch.from_numpy(segment.tokens_T[None, :end]).long()).last_hidden_state[0, -1]
        return hidden @ self.head

    def loss(self) -> Tensor:
        margins = [self.score(BATCH[better]) - self.score(BATCH[worse]) for better, worse in PAIRS]
        return torch.stack([-nn.functional.logsigmoid(margin) for margin in margins]).mean()


@pytest.mark.parametrize("max_tokens", [1, 12, 16384])
def test_it_descends_the_mean_over_pairs_of_the_logistic_loss(max_tokens: int) -> None:
    """Under plain gradient descent, five steps; the gradient is clipped once it is longer than the limit."""
    teacher, plain = judge(max_tokens=max_tokens, max_grad_norm=2.0), Plain(STUDENT)
    parameters = [*plain.body.parameters(), plain.head]
    teacher.critic.optimiser = torch.optim.SGD([*teacher.critic.trained.values()], lr=0.3)
    norms = []
    for _ in range(5):
        rewards(teacher)
        loss = plain.loss()
        assert teacher.metrics()["loss"] == pytest.approx(loss.item(), rel=1e-4)
        gradients = torch.autograd.grad(loss, parameters)
        norms.append(float(torch.cat([one.flatten() for one in gradients]).norm()))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.data -= 0.3 * gradient * min(1.0, 2.0 / (norms[-1] + 1e-6))
        teacher.after_step(STUDENT)
    assert min(norms) < 2.0 < max(norms)
    found = [number for row in rewards(teacher) for number in row if not math.isnan(number)]
    np.testing.assert_allclose(found, [plain.score(BATCH[b]).item() for b in (0, 1, 3, 5)], rtol=1e-3, atol=1e-4)
    assert teacher.version == 5


def test_it_scores_before_it_learns_and_says_nothing_of_others() -> None:
    teacher = judge(warm_up=1)
    said = annotate({"judge": teacher}, BATCH)
    assert all(record.annotations[0].skip_S.all() for record in said)
    teacher.after_step(STUDENT)
    before = [float(score) for score in teacher.critic.scores([one.segments[0].tokens_T for one in BATCH])]
    said = annotate({"judge": teacher}, BATCH)
    for b, record in enumerate(said):
        (annotation,) = record.annotations
        mine = b in (0, 1, 3, 5)
        assert annotation.skip_S.tolist() == [not mine] * len(record.trajectory.turns)
        assert np.flatnonzero(~np.isnan(annotation.reward_S)).tolist() == [len(record.trajectory.turns) - 1] * mine
        if mine:
            assert annotation.reward_S[-1] == pytest.approx(before[b], rel=1e-4)
    teacher.after_step(STUDENT)
    assert rewards(teacher)[0][-1] != pytest.approx(before[0], rel=1e-4)
    assert rewards(replace(teacher, scale=0.5))[0][-1] == pytest.approx(rewards(teacher)[0][-1] / 2, rel=1e-5)


def test_accuracy_and_loss_of_pairs_by_hand() -> None:
    compared = Compared([np.zeros(1, np.int32)] * 4, np.array([2.0, 0.0, 2.0, 5.0]), [(0, 1), (0, 2), (0, 3)])
    assert compared.metrics() == pytest.approx(
        {
            "pairs": 3.0,
            "accuracy": 0.5,  # one is right, one even, one wrong
            "loss": (math.log1p(math.exp(-2)) + math.log(2) + math.log1p(math.exp(3))) / 3,
        }
    )
    wrong = [1 / (1 + math.exp(2)) / 3, 0.5 / 3, 1 / (1 + math.exp(-3)) / 3]
    np.testing.assert_allclose(compared.slope_B, [-sum(wrong), *wrong])
    assert Compared([], np.zeros(0), []).metrics() == {"pairs": 0.0}


def test_whom_it_compares() -> None:
    """Failed ones, those of a third, and those in which the chosen one only helped are nobody's."""
    third = played("..0", 6, 0, "mentor")
    failed = played("..0", 7, 0, "expert", failed=True)
    helped = replace(episode("..0.1", seed=8, actors=("student", "expert"), acted={1: 1}), task=Task("test/Env-v0", 0))
    teacher = judge()
    found = rewards(teacher, [*BATCH, third, failed, helped])
    assert [math.isnan(row[-1]) for row in found] == [False, False, True, False, True, False, True, True, False]
    assert teacher.metrics()["pairs"] == 4  # the helped one is the student's
    assert teacher.metrics() == {}
    only = judge(where=Where(actor=("student",), max_turn=0))
    assert np.isnan(rewards(only)[0]).tolist() == [False, True]
    assert only.metrics()["pairs"] == 3
    assert rewards(judge(chosen="mentor"), [third, BATCH[0]])[1][-1] == 0.0


def test_one_that_can_be_told_apart_is_told_apart() -> None:
    """The expert's episodes end with a token of their own."""
    rng, teacher = np.random.default_rng(0), judge(learning_rate=0.003)
    for step in range(25):
        batch = []
        for task in range(4):
            for actor in ("student", "student", "expert"):
                tokens = [*rng.integers(0, 60, 5).tolist(), 60 if actor == "expert" else int(rng.integers(0, 60))]
                batch.append(played("..00.1", 10 * step + task, task, actor, tokens=tokens))
        rewards(teacher, batch)
        told = teacher.metrics()
        teacher.after_step(STUDENT)
        if step == 0:
            assert told["accuracy"] == 0.5
            assert told["loss"] == pytest.approx(math.log(2))
    assert told["accuracy"] > 0.9
    assert told["loss"] < 0.4


def test_what_it_kept_makes_another_one_go_on_bit_for_bit() -> None:
    first, second = judge(weight_decay=0.1), judge(weight_decay=0.1)
    for _ in range(3):
        rewards(first)
        first.after_step(STUDENT)
    state = copy.deepcopy(first.state())
    second.restore(state)
    for teacher in (first, second):
        rewards(teacher)
        teacher.after_step(STUDENT)
    np.testing.assert_equal(rewards(first), rewards(second))
    assert (first.version, first.memory.steps) == (second.version, second.memory.steps) == (4, 4)
    fresh = judge()
    fresh.restore(copy.deepcopy(judge().state()))  # before it has learned anything, there are no moments
    assert rewards(fresh)[0][-1] == 0.0


def test_its_body_is_a_copy_of_the_student_as_it_began() -> None:
    from peft import LoraConfig

    student = tiny_llama(5)
    wrapped = adapted(copy.deepcopy(student), LoraConfig(r=2, target_modules="all-linear"), seed=0)
    for given in (student, wrapped):
        before = {name: value.clone() for name, value in given.state_dict().items()}
        teacher = judge(given)
        for name, value in teacher.critic.body.state_dict().items():
            assert torch.equal(value, student.state_dict()[name])
        for _ in range(2):  # the head begins at 0, and the body learns through it
            rewards(teacher)
            teacher.after_step(given)
        assert not torch.equal(teacher.critic.body.model.norm.weight, student.model.norm.weight)
        assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert not judge(student).critic.body.lm_head.weight.requires_grad


def test_a_named_body_is_loaded_and_copied() -> None:
    given = tiny_llama(6)
    teacher = discriminator(context(model=given), model="somewhere")
    assert isinstance(teacher, Discriminator)
    assert teacher.critic.body is not given
    assert torch.equal(teacher.critic.body.model.norm.weight, given.model.norm.weight)
    with pytest.raises(ConfigError, match="there is no student to be taught by; give the teacher a model"):
        discriminator(context())


def test_what_is_not_finite_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = judge()
    rewards(teacher)
    with monkeypatch.context() as patched:
        patched.setattr(teacher.critic, "learn", lambda texts, slope_B: math.nan)
        with pytest.raises(
            TeacherError, match=r"^teacher 'judge': the norm of its gradient is nan; lower teachers\.judge\."
        ):
            teacher.after_step(STUDENT)
    teacher.critic.head.weight.data.fill_(math.nan)
    with pytest.raises(
        TeacherError, match=r"^teacher 'judge': a score is not finite; lower teachers\.judge\.learning_rate"
    ):
        rewards(teacher)


def test_too_long_episodes_are_skipped_and_counted() -> None:
    teacher = judge()
    teacher.critic.body.config.max_position_embeddings = 5
    found = rewards(teacher)
    assert [math.isnan(row[-1]) for row in found] == [False, False, True, False, True, False]
    told = teacher.metrics()
    assert (told["skipped"], told["pairs"]) == (2.0, 0.0)
    teacher.after_step(STUDENT)
    assert teacher.version == 0


SAMPLER = "objective.sampler={actors: {student: 7, expert: 1}, per_task: 8, divided: true}"
NAMED = ["method=grpo", "teachers.judge={kind: discriminator}", "objective.target.name=judge"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], r"teachers\.judge\.chosen=expert: .* no source plays both; set objective\.sampler: .*expert: 1"),
        (["objective.sampler={actors: {student: 1, expert: 0}, per_task: 8}"], r"teachers\.judge\.chosen=expert: "),
        ([SAMPLER, "teachers.judge.chosen=teacher"], r"teachers\.judge\.chosen=teacher: .*teacher: 1"),
        ([SAMPLER, "teachers.judge.chosen=exprt"], r"teachers\.judge\.chosen=exprt: nobody is called that .*'expert'"),
        ([SAMPLER, "teachers.judge.chosen=student"], r"teachers\.judge\.chosen=student: .*expert: 1"),
    ],
)
def test_a_source_must_play_both(overrides: list[str], said: str) -> None:
    load_config("quickstart", [*NAMED, SAMPLER])
    with pytest.raises(ConfigError, match=said):
        load_config("quickstart", [*NAMED, *overrides])


def test_it_is_no_member_of_an_ensemble() -> None:
    teachers = "teachers={a: {kind: self}, b: {kind: discriminator}, all: {kind: ensemble, members: [a, b]}}"
    with pytest.raises(ConfigError, match=r"teachers\.all\.members: 'b' is of kind discriminator, .* give .*: .*a"):
        load_config("quickstart", [teachers])
