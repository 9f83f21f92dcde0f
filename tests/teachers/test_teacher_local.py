from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_cases import VOCAB, acted_by, context, episode, tiny_llama
from transformers import PreTrainedModel

import agentopd.teachers.local as local_module
from agentopd.errors import ConfigError, TeacherError
from agentopd.objective.head import Projector
from agentopd.settings.parts import OneOf
from agentopd.teachers import EVERYWHERE, TEACHERS, annotate, build_teachers
from agentopd.teachers.local import LocalTeacher, local
from agentopd.teachers.views import own_view
from agentopd.types import Annotation, Dense, Trajectory, View
from agentopd.where import Where

MODEL = tiny_llama(0)
EXACT = tiny_llama(0, torch.float64)
EPISODES = [
    episode("...00..1", seed=1),
    episode("..0000.1", "....22", seed=2),
    episode("..00.11", seed=3, failed=True),
    episode(".0", seed=4),
    episode("..00.11...22.", seed=5, actors=("student", "mentor"), acted={1: 1}),
]


def teacher_of(model: PreTrainedModel, where: Where = EVERYWHERE, max_tokens: int = 64, t: float = 1.0) -> LocalTeacher:
    made = local(context(model=model, temperature=t), model="a-folder", where=where, max_tokens=max_tokens)
    assert isinstance(made, LocalTeacher)
    return made


def hidden_of(annotation: Annotation) -> torch.Tensor:
    assert isinstance(annotation.block, Dense)
    return annotation.block.hidden_N_H


def plain_logits(model: PreTrainedModel, trajectory: Trajectory, segment: int) -> torch.Tensor:
    with torch.no_grad():
        ids_T = torch.from_numpy(trajectory.segments[segment].tokens_T).long()
        logits: torch.Tensor = model(ids_T[None]).logits[0]
    return logits


def rows_of(trajectory: Trajectory) -> list[tuple[int, int]]:
    return [(s, int(i)) for s, g in enumerate(trajectory.segments) for i in np.flatnonzero(g.turn_T >= 0)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_taken_entropy_and_logits_equal_a_plain_forward(temperature: float) -> None:
    teacher = teacher_of(EXACT, t=temperature)
    for trajectory, said in zip(EPISODES, teacher.annotate(EPISODES), strict=True):
        if trajectory.failure:
            continue
        assert list(zip(said.segment_N.tolist(), said.index_N.tolist(), strict=True)) == rows_of(trajectory)
        logits_N_V = teacher.heads["teacher"].logits(hidden_of(said))
        for n, (segment, index) in enumerate(rows_of(trajectory)):
            want_V = plain_logits(EXACT, trajectory, segment)[index - 1]
            torch.testing.assert_close(logits_N_V[n], want_V, rtol=0, atol=1e-10)
            logprob_V = torch.log_softmax(want_V / temperature, -1)
            token = int(trajectory.segments[segment].tokens_T[index])
            assert said.taken_logprob_N[n] == pytest.approx(float(logprob_V[token]), abs=1e-5)
            assert said.entropy_N[n] == pytest.approx(float(-(logprob_V.exp() * logprob_V).sum()), abs=1e-5)
        assert not said.skip_S.any()
        assert np.isnan(said.reward_S).all()


@pytest.mark.parametrize(("model", "atol"), [(MODEL, 1e-5), (EXACT, 1e-10)])
@settings(max_examples=10)
@given(max_tokens=st.integers(1, 64), order=st.permutations(range(len(EPISODES))))
def test_batching_and_order_change_nothing(
    model: PreTrainedModel, atol: float, max_tokens: int, order: list[int]
) -> None:
    whole = teacher_of(model).annotate(EPISODES)
    cut = teacher_of(model, max_tokens=max_tokens).annotate([EPISODES[i] for i in order])
    for i, said in zip(order, cut, strict=True):
        torch.testing.assert_close(hidden_of(said), hidden_of(whole[i]), rtol=0, atol=atol)
        np.testing.assert_allclose(
            said.taken_logprob_N, whole[i].taken_logprob_N, rtol=0, atol=1e-4 if model is MODEL else 1e-6
        )
        assert said.index_N.tolist() == whole[i].index_N.tolist()


def test_one_forward_reads_a_whole_view(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    forward = MODEL.model.forward

    def counted(*args: torch.Tensor, **kwargs: torch.Tensor) -> object:
        shapes.append(tuple((kwargs["input_ids"] if "input_ids" in kwargs else args[0]).shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(MODEL.model, "forward", counted)
    teacher_of(MODEL, max_tokens=16).annotate(EPISODES)
    assert shapes == [(1, 12), (2, 8), (2, 6)]


def test_rows_of_other_turns_are_not_in_the_block() -> None:
    said = teacher_of(MODEL, Where(every=2)).annotate(EPISODES)[1]
    assert list(zip(said.segment_N.tolist(), said.index_N.tolist(), strict=True)) == [
        *((0, i) for i in (2, 3, 4, 5)),
        *((1, i) for i in (4, 5)),
    ]
    assert said.skip_S.tolist() == [False, True, False]
    assert len(hidden_of(said)) == len(said.taken_logprob_N) == len(said.entropy_N) == 6


def test_where_selects_by_actor_and_source() -> None:
    mixed = EPISODES[4]
    assert teacher_of(MODEL, Where(actor=("mentor",))).annotate([mixed])[0].index_N.tolist() == [5, 6]
    forked = episode("..00", "..11", sources=("fresh", "replay"))
    said = teacher_of(MODEL, Where(source=("replay",))).annotate([forked])[0]
    assert said.segment_N.tolist() == [1, 1]
    assert said.skip_S.tolist() == [True, False]


def test_a_failed_episode_gets_an_empty_annotation() -> None:
    said = teacher_of(MODEL).annotate(EPISODES)[2]
    assert len(said.segment_N) == len(said.taken_logprob_N) == len(hidden_of(said)) == 0
    assert hidden_of(said).shape == (0, 16)
    assert said.skip_S.all()


def test_no_trajectories_give_no_annotations() -> None:
    assert teacher_of(MODEL).annotate([]) == []


def test_teacher_equal_to_student_repeats_the_behaviour_logprobs() -> None:
    trajectory = acted_by(EXACT, "...0000..111.22", temperature=0.8, seed=11)
    said = teacher_of(EXACT, t=0.8).annotate([trajectory])[0]
    np.testing.assert_allclose(said.taken_logprob_N, trajectory.segments[0].logprob_T[said.index_N], rtol=0, atol=1e-6)


def test_invariant_8_a_view_with_privileged_context_only_moves_the_positions() -> None:
    hint = np.array([3, 1, 4, 1, 5], dtype=np.int32)

    def hinted(trajectory: Trajectory, segment: int) -> list[View]:
        view = own_view(trajectory, segment)
        tokens_T = np.concatenate([hint, view.tokens_T])
        return [replace(view, tokens_T=tokens_T, position_A=view.position_A + np.int32(len(hint)))]

    teacher = replace(teacher_of(EXACT, Where(min_turn=1)), shown=hinted)
    trajectory = EPISODES[1]
    before = [segment.tokens_T.copy() for segment in trajectory.segments]
    said = teacher.annotate([trajectory])[0]
    assert list(zip(said.segment_N.tolist(), said.index_N.tolist(), strict=True)) == [(0, 7), (1, 4), (1, 5)]
    for n, (segment, index) in enumerate([(0, 7), (1, 4), (1, 5)]):
        ids_T = np.concatenate([hint, trajectory.segments[segment].tokens_T])
        with torch.no_grad():
            logits_V = EXACT(torch.from_numpy(ids_T[None]).long()).logits[0, len(hint) + index - 1]
        taken = torch.log_softmax(logits_V, -1)[int(trajectory.segments[segment].tokens_T[index])]
        assert said.taken_logprob_N[n] == pytest.approx(float(taken), abs=1e-5)
    for tokens, segment_after in zip(before, trajectory.segments, strict=True):
        np.testing.assert_array_equal(tokens, segment_after.tokens_T)


def test_a_malformed_view_is_an_error_that_names_teacher_and_trajectory() -> None:
    teacher = replace(
        teacher_of(MODEL),
        shown=lambda trajectory, segment: [replace(own_view(trajectory, segment), position_A=np.zeros(3, np.int32))],
    )
    with pytest.raises(TeacherError, match=r"'teacher', trajectory test/0/1/0: .*position 0"):
        teacher.annotate(EPISODES[:1])


def test_the_model_is_frozen() -> None:
    model = tiny_llama(1).train()
    teacher = teacher_of(model)
    assert teacher.model is teacher.reads is model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not hidden_of(teacher.annotate(EPISODES)[0]).requires_grad
    assert teacher.state() == {}


def test_nan_is_an_error() -> None:
    model = tiny_llama(1)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TeacherError, match=r"'teacher'.*NaN"):
        teacher_of(model).annotate(EPISODES)


def test_a_small_vocabulary_is_an_error() -> None:
    model = tiny_llama(1)
    model.resize_token_embeddings(VOCAB - 1)
    with pytest.raises(ConfigError, match=f"knows {VOCAB - 1} token ids .* makes {VOCAB}"):
        teacher_of(model)


def test_neither_model_nor_new_is_a_config_error_that_names_the_teacher() -> None:
    ours = context(model=MODEL)
    with pytest.raises(ConfigError, match=r"^teachers\.mentor: give exactly one of model .* got neither$"):
        build_teachers({"mentor": OneOf("teacher", TEACHERS).validate("local")}, ours.chat, ours.load, 1.0)


def test_no_more_than_a_chunk_of_logits_exists_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    project = Projector.__call__

    def counted(projector: Projector, chunk: slice) -> torch.Tensor:
        formed = project(projector, chunk)
        rows.append(len(formed))
        return formed

    monkeypatch.setattr(Projector, "__call__", counted)
    monkeypatch.setattr(local_module, "CHUNK_ROWS", 3)
    annotate({"teacher": teacher_of(MODEL)}, EPISODES)
    assert rows
    assert max(rows) <= 3
