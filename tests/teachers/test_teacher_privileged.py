"""The privileged teacher: the same tokens behind a prompt that tells more."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from agentopd.chat import Chat, Hint
from agentopd.errors import TeacherError
from agentopd.forward import hidden_states
from agentopd.freezing import AdapterOff, initial
from agentopd.models import NewModel, build_tokenizer, head_of, new_model
from agentopd.rollout import Assignment, Request, Rollout, ScriptedPolicy, TransformersPolicy, collect
from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, Teacher, build_teachers
from agentopd.teachers.local import LocalTeacher
from agentopd.teachers.views import hinted_view, own_view
from agentopd.tooling import call
from agentopd.training.run.hinted import hinted, partly_hinted
from agentopd.types import Dense, Key, Task, Trajectory

ROLLOUT = Rollout(max_turns=4, max_new_tokens=40, max_length=900)
HINT = "Secretly it comes to {answer}."
WORDS = [
    "What do 3 pears and 2 plums cost? submit total calculate expression price item",
    "Secretly it comes to 0123456789.",
]


@cache
def chat() -> Chat:
    return Chat(build_tokenizer(WORDS, 500))


def small(seed: int) -> PreTrainedModel:
    shape = NewModel(hidden_size=16, layers=2, heads=2, intermediate_size=24, max_positions=1024)
    return new_model(shape, chat().tokenizer, seed)


def adapted(seed: int = 0) -> Any:
    model = get_peft_model(small(seed), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.5)
    return model


def play(count: int, settings: Rollout = ROLLOUT) -> list[Trajectory]:
    """Looks up something, says something odd, then submits nothing in particular."""

    def act(request: Request) -> Sequence[int]:
        text = [call("price", item="pears"), "hm  hm", call("calculate", expression="3*4")][request.seed % 3]
        return [*chat().tokenizer.encode(text, add_special_tokens=False), chat().end_of_turn]

    tasks = [Task("agentopd/Checkout-v0", seed=i) for i in range(count)]
    assignments = [Assignment(task, Key("run", 0, i), "student", i, "fresh") for i, task in enumerate(tasks)]
    return collect(assignments, {"student": ScriptedPolicy(act)}, chat(), settings)


def teacher(student: PreTrainedModel, **settings: Any) -> Teacher:
    choice = OneOf("teacher", TEACHERS).validate({"kind": "privileged", "hint": HINT} | settings)
    return build_teachers({"mentor": choice}, chat(), lambda _: small(7), 1.0, lambda: initial(student))["mentor"]


def text(tokens: Any) -> str:
    return str(chat().tokenizer.decode(tokens))


def test_its_view_is_the_prompt_with_the_hint_and_then_the_students_tokens_verbatim() -> None:
    [trajectory] = play(1)
    [segment] = trajectory.segments
    view, own = hinted_view(trajectory, 0, chat=chat(), hint=Hint(HINT)), own_view(trajectory, 0)
    added = len(view.tokens_T) - len(own.tokens_T)
    assert added > 0
    np.testing.assert_array_equal(view.position_A, own.position_A + added)
    first = trajectory.turns[0].start
    np.testing.assert_array_equal(view.tokens_T[first + added :], segment.tokens_T[first:])
    answer = trajectory.privileged["answer"]
    assert text(view.tokens_T).replace(f"\n\nSecretly it comes to {answer}.", "") == text(segment.tokens_T)


def test_forked_segments_hold_the_hint_each() -> None:
    length = max(turn.start for turn in play(1)[0].turns) + 30
    settings = ROLLOUT.model_copy(update={"on_overflow": "drop_oldest", "max_new_tokens": 40, "max_length": length})
    [trajectory] = play(1, settings)
    assert len(trajectory.segments) > 1
    for number, segment in enumerate(trajectory.segments):
        view = hinted_view(trajectory, number, chat=chat(), hint=Hint(HINT))
        assert text(view.tokens_T).count("Secretly") == 1
        np.testing.assert_array_equal(view.tokens_T[view.position_A], segment.tokens_T[view.index_A])


def test_it_is_the_students_weights_without_the_adapter_behind_the_hint() -> None:
    student = adapted()
    mentor, [trajectory] = teacher(student), play(1)
    [annotation] = mentor.annotate([trajectory])
    view = hinted_view(trajectory, 0, chat=chat(), hint=Hint(HINT))
    base = small(0)
    hidden_T_H = hidden_states(base, torch.from_numpy(view.tokens_T[None].astype(np.int64)))[0]
    assert isinstance(annotation.block, Dense)
    torch.testing.assert_close(annotation.block.hidden_N_H, hidden_T_H[view.position_A - 1], rtol=1e-5, atol=1e-5)
    logprob_A_V = head_of(base).logits(hidden_T_H[view.position_A - 1]).log_softmax(-1)
    taken_logprob_A = logprob_A_V[range(len(view.position_A)), view.tokens_T[view.position_A]]
    np.testing.assert_allclose(annotation.taken_logprob_N, taken_logprob_A.detach().numpy(), rtol=1e-4, atol=1e-4)


def test_the_adapter_stays_on_and_trainable_for_the_student() -> None:
    student = adapted()
    student.train()
    trainable = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    ids_B_T = torch.arange(8)[None]
    before = student(input_ids=ids_B_T).logits
    teacher(student).annotate(play(1))
    torch.testing.assert_close(student(input_ids=ids_B_T).logits, before)
    assert {name for name, parameter in student.named_parameters() if parameter.requires_grad} == trainable != set()
    assert student.training
    assert not list(AdapterOff(student).parameters())


def test_what_was_frozen_inside_an_adapter_stays_frozen() -> None:
    student = adapted()
    for name, parameter in student.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    trainable = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    teacher(student).annotate(play(1))
    assert {name for name, parameter in student.named_parameters() if parameter.requires_grad} == trainable != set()


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_that_changes_the_weights_beside_it_leaves_a_copy(start: Any) -> None:
    student: Any = get_peft_model(small(0), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=start))
    mentor, ids_B_T = initial(student), torch.arange(8)[None]
    for parameter in student.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.5)
    base = small(0)
    torch.testing.assert_close(mentor(input_ids=ids_B_T).logits, base(input_ids=ids_B_T).logits, rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in mentor.parameters())


def test_without_an_adapter_it_is_a_copy_that_training_does_not_reach() -> None:
    student = small(0)
    mentor, [trajectory] = teacher(student), play(1)
    [before] = mentor.annotate([trajectory])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    [after] = mentor.annotate([trajectory])
    np.testing.assert_array_equal(before.taken_logprob_N, after.taken_logprob_N)
    assert head_of(student).weight_V_H.requires_grad


def test_other_weights_are_taken_where_they_are_named() -> None:
    mentor = teacher(small(0), model="somewhere")
    assert isinstance(mentor, LocalTeacher)
    assert torch.equal(head_of(mentor.reads).weight_V_H, head_of(small(7)).weight_V_H)


def test_it_can_act_by_the_weights_without_the_adapter() -> None:
    student = adapted()
    tokens = {}
    for name, model in {"off": initial(student), "base": small(0), "on": student}.items():
        policy = TransformersPolicy(model, chat().end_of_turn, ROLLOUT)
        [generation] = policy.act([Request(0, [5, 6, 7], seed=3, max_new_tokens=12)])
        tokens[name] = generation.tokens
    assert tokens["off"] == tokens["base"] != tokens["on"]


def test_turns_that_are_not_selected_need_no_facts() -> None:
    [trajectory] = play(1)
    mentor = teacher(small(0), where={"env": ["agentopd/Calculator-v0"]})
    [annotation] = mentor.annotate([replace(trajectory, privileged={})])
    assert annotation.skip_S.all()


def test_an_episode_that_another_chat_wrote_is_refused() -> None:
    [trajectory] = play(1)
    other: Trajectory = replace(trajectory, opening=({"role": "user", "content": "Something else."},))
    with pytest.raises(TeacherError, match="the prompt of segment 0 is not what the chat template gives"):
        teacher(small(0)).annotate([other])


def test_facts_that_are_missing_in_an_episode_are_named() -> None:
    [trajectory] = play(1)
    with pytest.raises(
        TeacherError, match=r"^teacher 'mentor', trajectory run/0/0/0: hint=.*the environment tells nothing"
    ):
        teacher(small(0)).annotate([replace(trajectory, privileged={})])


def test_one_episode_that_it_cannot_read_is_skipped_and_told(caplog: pytest.LogCaptureFixture) -> None:
    told, untold = play(2)
    alone = teacher(small(0)).annotate([told])[0]
    beside, skipped = teacher(small(0)).annotate([told, replace(untold, privileged={})])
    np.testing.assert_array_equal(beside.taken_logprob_N, alone.taken_logprob_N)
    assert skipped.skip_S.all()
    assert not len(skipped.taken_logprob_N)
    [said] = caplog.messages
    assert said.startswith("teacher 'mentor', trajectory run/0/1/0: hint=")
    assert said.endswith("; the episode is skipped")


# The privileged form of traces.


def test_the_privileged_form_is_the_same_episode_behind_the_hint() -> None:
    for trajectory in play(3):
        shown = hinted(trajectory, chat(), Hint(HINT))
        assert shown.outcome == trajectory.outcome
        for old, new in zip(trajectory.turns, shown.turns, strict=True):
            before, after = trajectory.segments[old.segment], shown.segments[new.segment]
            np.testing.assert_array_equal(before.tokens_T[old.start : old.stop], after.tokens_T[new.start : new.stop])
            assert set(after.turn_T[new.start : new.stop].tolist()) == {new.index}
        for before, after in zip(trajectory.segments, shown.segments, strict=True):
            assert after.trainable_T.sum() == before.trainable_T.sum() == (after.turn_T >= 0).sum()
            assert "Secretly" in text(after.tokens_T)


def test_traces_of_environments_that_the_hint_is_not_for_stay_as_they_are() -> None:
    one, *others = play(3)
    elsewhere = replace(one, task=Task("tests/Other-v0", seed=0), privileged={})
    shown = partly_hinted([elsewhere, *others], 1.0, chat(), Hint(HINT, ("agentopd/Checkout-v0",)))
    assert ["Secretly" in text(one.segments[0].tokens_T) for one in shown] == [False, True, True]


@pytest.mark.parametrize(("share", "expected"), [(0.5, [0, 1, 0, 1]), (1.0, [1] * 4), (0.25, [0, 0, 0, 1])])
def test_the_share_of_privileged_traces_is_spread_evenly(share: float, expected: list[int]) -> None:
    shown = partly_hinted(play(4), share, chat(), Hint(HINT))
    assert ["Secretly" in text(one.segments[0].tokens_T) for one in shown] == list(map(bool, expected))


def test_a_view_longer_than_its_model_reads_is_an_error_that_says_so() -> None:
    [trajectory] = play(1)
    longest = len(hinted_view(trajectory, 0, chat=chat(), hint=Hint(HINT)).tokens_T)
    student = small(0)
    student.config.max_position_embeddings = longest
    teacher(student).annotate([trajectory])
    student.config.max_position_embeddings = longest - 1
    # the end of turn stands last, and is the last token that is taught
    with pytest.raises(
        TeacherError,
        match=rf"^teacher 'mentor', trajectory run/0/0/0: its view has {longest} tokens, .* {longest - 1};",
    ):
        teacher(student).annotate([trajectory])
