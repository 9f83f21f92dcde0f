"""Several teachers as one: the mean of their distributions, and how much they disagree."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teacher_cases import VOCAB, context, episode, tiny_llama
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import agentopd.teachers.ensemble as ensemble_module
from agentopd.config import load_config
from agentopd.errors import ConfigError, TeacherError
from agentopd.models import ModelConfig
from agentopd.objective import Rows
from agentopd.objective.head import Head
from agentopd.records import thin
from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, Combining, Teacher, annotate, build_teachers
from agentopd.teachers.ensemble import Ensemble, mixed
from agentopd.teachers.local import LocalTeacher
from agentopd.types import Annotation, Dense, Mixture, Sampled, Trajectory

EPISODES = [episode("..000.11", seed=1), episode("...0.1", ".22", seed=2), episode(".00", seed=3, failed=True)]


def smaller(seed: int, vocab: int = VOCAB) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaForCausalLM(config)  # type: ignore[no-untyped-call]


MODELS: Mapping[str, PreTrainedModel] = {"a": tiny_llama(0), "b": tiny_llama(1), "c": smaller(2), "d": smaller(3, 70)}
LOCALS: dict[str, Any] = {name: {"kind": "local", "model": name} for name in MODELS}
"""``d`` knows more token ids than the tokenizer makes."""


def build(chosen: Mapping[str, Any], temperature: float = 1.0) -> dict[str, Teacher]:
    def load(wanted: ModelConfig) -> PreTrainedModel:
        return MODELS[str(wanted.model)]

    choices = {name: OneOf("teacher", TEACHERS).validate(given) for name, given in chosen.items()}
    return build_teachers(choices, context().chat, load, temperature)


def by_hand(
    distributions: Sequence[Sequence[Sequence[float]]], temperature: float = 1.0, tokens: Sequence[int] = (0,)
) -> Annotation:
    """What is said of one token after another by members with these distributions."""
    trajectory = episode("." + "0" * len(tokens), tokens=[0, *tokens])
    index_N = np.arange(1, 1 + len(tokens), dtype=np.int32)
    nothing_N = np.zeros(len(tokens), np.float32)
    parts, heads = [], {}
    for e, rows in enumerate(distributions):
        logits = torch.tensor(rows, dtype=torch.float64).log().clamp_min(-1e4) * temperature
        heads[str(e)] = Head(torch.eye(logits.shape[1], dtype=torch.float64))
        reward_S, skip_S = np.full(1, np.nan, np.float32), np.zeros(1, np.bool_)
        block = Dense(logits, str(e))
        parts.append(Annotation(str(e), np.zeros_like(index_N), index_N, block, nothing_N, nothing_N, reward_S, skip_S))
    return mixed("all", trajectory, parts, heads, temperature, [trajectory.segments[0].turn_T >= 0])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_information_between_token_and_member_by_hand(temperature: float) -> None:
    """(3/4, 1/4) and (1/4, 3/4): the mean is a fair coin."""
    said = by_hand([[[0.75, 0.25]], [[0.25, 0.75]]], temperature)
    alone = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert said.taken_logprob_N.tolist() == pytest.approx([math.log(0.5)])
    assert said.entropy_N.tolist() == pytest.approx([math.log(2)])
    assert said.statistics["aleatoric"].tolist() == pytest.approx([alone])
    assert said.statistics["epistemic"].tolist() == pytest.approx([math.log(2) - alone])
    assert {column.dtype for column in said.statistics.values()} == {np.dtype(np.float32)}


def test_members_that_are_sure_of_different_tokens_are_as_epistemic_as_can_be() -> None:
    said = by_hand([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])
    assert said.statistics["epistemic"].tolist() == pytest.approx([math.log(3)])
    assert said.statistics["aleatoric"].tolist() == pytest.approx([0.0], abs=1e-6)


@given(st.lists(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4), min_size=2, max_size=4))
def test_both_parts_sum_to_the_entropy_and_neither_is_negative(raw: list[list[float]]) -> None:
    said = by_hand([[[value / sum(row) for value in row]] for row in raw])
    aleatoric, epistemic = (float(said.statistics[name][0]) for name in ("aleatoric", "epistemic"))
    assert aleatoric + epistemic == pytest.approx(float(said.entropy_N[0]), abs=1e-5)
    assert -1e-6 <= epistemic <= math.log(len(raw)) + 1e-6
    assert aleatoric >= 0.0


def test_members_that_agree_have_nothing_to_learn_from_each_other() -> None:
    chosen = LOCALS | {"a again": {"kind": "local", "model": "a", "attention": "eager"}}
    teachers = build({**chosen, "all": {"kind": "ensemble", "members": ["a", "a again"]}})
    for record in annotate({name: teachers[name] for name in ("a", "a again", "all")}, EPISODES):
        one, _, both = record.annotations
        np.testing.assert_allclose(both.statistics["epistemic"], 0.0, atol=1e-6)
        np.testing.assert_allclose(both.entropy_N, one.entropy_N, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(both.taken_logprob_N, one.taken_logprob_N, rtol=1e-5, atol=1e-6)


def plain(model: PreTrainedModel, trajectory: Trajectory, s: int, t: int, temperature: float) -> Tensor:
    """The distribution of a model at one token, in float64 from its logits."""
    ids_T = torch.from_numpy(trajectory.segments[s].tokens_T[:t]).long()
    with torch.no_grad():
        q: Tensor = (model(ids_T[None]).logits[0, -1].double() / temperature).softmax(0)
    return q


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_members_of_other_sizes_agree_with_plain_forwards_on_the_rows_that_all_cover(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble_module, "CHUNK_ROWS", 2)
    wheres: dict[str, Any] = {"a": {"max_turn": 1}, "b": {}, "c": {"every": 2}}
    chosen = {name: LOCALS[name] | {"where": where} for name, where in wheres.items()}
    teachers = build({"all": {"kind": "ensemble", "members": ["c", "a", "b"]}, **chosen}, temperature)
    for record in annotate(teachers, EPISODES):
        said, trajectory = record.annotations[0], record.trajectory
        assert said.teacher == "all"
        turns = [trajectory.segments[s].turn_T[t] for s, t in zip(said.segment_N, said.index_N, strict=True)]
        assert set(turns) == (set() if trajectory.failure else {0})  # a teaches 0 and 1, c teaches 0 and 2
        assert said.skip_S.tolist() == [turn not in turns for turn in range(len(trajectory.turns))]
        for n, (s, t) in enumerate(zip(said.segment_N, said.index_N, strict=True)):
            each = torch.stack([plain(MODELS[name], trajectory, s, t, temperature) for name in ("a", "b", "c")])
            mean, entropies = each.mean(0), -(each * each.log()).sum(1)
            whole = float(-(mean * mean.log()).sum())
            taken = float(mean[int(trajectory.segments[s].tokens_T[t])].log())
            assert float(said.taken_logprob_N[n]) == pytest.approx(taken, rel=1e-4)
            assert float(said.entropy_N[n]) == pytest.approx(whole, rel=1e-4)
            assert float(said.statistics["aleatoric"][n]) == pytest.approx(float(entropies.mean()), rel=1e-4)
            assert float(said.statistics["epistemic"][n]) == pytest.approx(whole - float(entropies.mean()), abs=1e-4)


def thinned(draw: int, trajectory: Trajectory, s: int, t: int, seed: int = 5, rate: float = 0.25) -> Tensor:
    """The distribution of one draw of dropout of ``a``: the columns of its layers that are left out are 0, the others scaled up."""
    model, head = tiny_llama(0), tiny_llama(0).lm_head
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            layer.weight.data *= dropped(f"{seed}/{draw}/{name}", layer.in_features, rate)
    assert torch.equal(model.lm_head.weight, head.weight)
    return plain(model, trajectory, s, t, 1.0)


def dropped(drawn_by: str, count: int, rate: float) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(drawn_by.encode()).digest()[:7], "big")
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    return (drawn >= rate) / (1.0 - rate)


DRAWN: dict[str, Any] = {"kind": "ensemble", "members": ["a"], "draws": 3, "dropout": 0.25, "seed": 5}


def test_draws_of_dropout_are_networks_with_less_whatever_is_read_together() -> None:
    teachers = build({"a": LOCALS["a"], "all": DRAWN})
    before = teachers["a"].annotate(EPISODES)
    said = teachers["all"].annotate(EPISODES)
    for trajectory, one in zip(EPISODES, said, strict=True):
        [alone] = teachers["all"].annotate([trajectory])
        np.testing.assert_allclose(one.taken_logprob_N, alone.taken_logprob_N, rtol=1e-4, atol=1e-5)
        for n, (s, t) in enumerate(zip(one.segment_N, one.index_N, strict=True)):
            each = torch.stack([thinned(draw, trajectory, s, t) for draw in range(3)])
            mean, entropies = each.mean(0), -(each * each.log()).sum(1)
            epistemic = float(-(mean * mean.log()).sum() - entropies.mean())
            token = int(trajectory.segments[s].tokens_T[t])
            assert float(one.taken_logprob_N[n]) == pytest.approx(float(mean[token].log()), rel=1e-3)
            assert float(one.statistics["epistemic"][n]) == pytest.approx(epistemic, abs=1e-4)
            assert epistemic > 1e-4
    for old, new in zip(before, teachers["a"].annotate(EPISODES), strict=True):  # the member itself is whole again
        np.testing.assert_array_equal(old.taken_logprob_N, new.taken_logprob_N)


def test_another_seed_leaves_out_others_and_they_learn_and_are_recorded_like_any_ensemble() -> None:
    [one, two] = (build({"a": LOCALS["a"], "all": {**DRAWN, "seed": seed}}) for seed in (5, 6))
    first, second = (made["all"].annotate(EPISODES)[0] for made in (one, two))
    assert not np.allclose(first.taken_logprob_N, second.taken_logprob_N, atol=1e-3)
    [record, *_] = annotate(one, EPISODES)
    assert [annotation.teacher for annotation in record.annotations] == ["a", "all"]
    kept = thin(record, "sparse", k=4, heads={**one["all"].heads, **one["a"].heads})
    assert kept.annotations[1].statistics.keys() == {"aleatoric", "epistemic"}


def test_ensembles_of_other_seeds_have_no_draw_in_common() -> None:
    """Nor have those whose seeds follow each other, so that several of them tell what depends on the seed."""

    def drawn(seed: int) -> list[Tensor]:
        made = build({"a": LOCALS["a"], "all": {**DRAWN, "seed": seed}})["all"]
        assert isinstance(made, Ensemble)
        return [member.annotate(EPISODES)[0].block.hidden_N_H for member in made.members.values()]  # type: ignore[union-attr]

    first, second = drawn(5), drawn(6)
    assert not any(torch.equal(one, other) for one in first for other in second)


def test_draws_are_of_one_model_that_is_read_here() -> None:
    with pytest.raises(ConfigError, match=r"teachers.all.members=\['a', 'b'\]: draws=3 are drawn of one teacher"):
        build({"a": LOCALS["a"], "b": LOCALS["b"], "all": {**DRAWN, "members": ["a", "b"]}})
    with pytest.raises(ConfigError, match="'judge' is of kind reward, which is no model"):
        build({"judge": {"kind": "reward"}, "all": {**DRAWN, "members": ["judge"]}})


def test_its_own_where_leaves_out_rows_and_its_block_names_its_members_heads() -> None:
    chosen = {name: LOCALS[name] for name in ("a", "c")}
    teachers = build(chosen | {"all": {"kind": "ensemble", "members": ["a", "c"], "where": {"min_turn": 1}}})
    said = annotate(teachers, EPISODES)[0].annotations[2]
    assert said.skip_S.tolist() == [True, False]
    assert isinstance(said.block, Mixture)
    assert [(one.head, one.hidden_N_H.shape) for one in said.block.members] == [("a", (2, 16)), ("c", (2, 8))]
    assert list(teachers["all"].heads) == ["a", "c"]
    assert teachers["all"].model is None
    rows = Rows.of(annotate(teachers, EPISODES))
    assert {"aleatoric", "epistemic"} <= set(rows.teachers["all"].statistics)


def test_members_are_asked_once_whoever_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = LocalTeacher.annotate

    def noted(self: LocalTeacher, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        asked.append(self.name)
        return original(self, trajectories)

    monkeypatch.setattr(LocalTeacher, "annotate", noted)
    both = {"kind": "ensemble", "members": ["a", "b"]}
    teachers = build({"first": both, "a": LOCALS["a"], "b": LOCALS["b"], "last": both})
    [record, *_] = annotate(teachers, EPISODES)
    assert [annotation.teacher for annotation in record.annotations] == ["first", "a", "b", "last"]
    assert asked == ["a", "b"]
    [alone, *_] = teachers["first"].annotate(EPISODES)
    assert asked == ["a", "b"] * 2
    np.testing.assert_array_equal(alone.entropy_N, record.annotations[0].entropy_N)
    assert isinstance(teachers["first"], Combining)
    assert not isinstance(teachers["a"], Combining)


ENSEMBLES: list[tuple[Any, str]] = [
    (["a"], r"teachers\.all\.members=\['a'\]: give at least two different teachers, or one and draws; those .*: a, b"),
    (["a", "a"], r"teachers\.all\.members=\['a', 'a'\]: give at least two different"),
    (["a", "bb"], r"teachers\.all\.members: no teacher is called 'bb' \(did you mean 'b'\?\)"),
    (["a", "all"], r"teachers\.all\.members: 'all' is the ensemble itself, which is no model"),
    (["a", "judge"], r"teachers\.all\.members: 'judge' is of kind reward, which is no model in this process; give .*a, b"),
    (["a", "other"], r"teachers\.all\.members: 'other' is of kind ensemble, which is no model"),
]  # fmt: skip


@pytest.mark.parametrize(("members", "said"), ENSEMBLES)
def test_members_that_cannot_be_read_are_told_when_the_configuration_is_read(members: list[str], said: str) -> None:
    teachers = {
        "a": LOCALS["a"],
        "b": LOCALS["b"],
        "judge": {"kind": "reward"},
        "other": {"kind": "ensemble", "members": ["a", "b"]},
        "all": {"kind": "ensemble", "members": members},
    }
    raw = {"env": {"id": "agentopd/Checkout-v0"}, "student": {"model": "here"}, "method": "grpo", "teachers": teachers}
    raw["objective"] = {"target": {"kind": "reward", "name": "judge"}}
    with pytest.raises(ConfigError, match=said):
        load_config(raw)
    with pytest.raises(ConfigError, match=f"^{said}"):
        build(teachers)


@pytest.mark.parametrize(("setting", "value"), [("dropout", 0.5), ("seed", 3)])
def test_what_only_draws_read_is_refused_without_them_when_the_configuration_is_read(setting: str, value: Any) -> None:
    teachers = {**LOCALS, "all": {"kind": "ensemble", "members": ["a", "b"], setting: value}}
    raw = {"env": {"id": "agentopd/Checkout-v0"}, "student": {"model": "here"}, "teachers": teachers}
    raw["objective"] = {"target": {"kind": "taken"}}
    said = rf"teachers\.all\.{setting}={value}: nothing is drawn without draws; leave it out"
    with pytest.raises(ConfigError, match=said):
        load_config(raw)
    with pytest.raises(ConfigError, match=f"^{said}$"):
        build(teachers)


def test_one_model_twice_is_no_ensemble() -> None:
    with pytest.raises(
        ConfigError, match=r"'a' and 'again' are one model twice, .* a different model, hint or new\.seed"
    ):
        build({**LOCALS, "again": LOCALS["a"], "all": {"kind": "ensemble", "members": ["a", "again"]}})
    elsewhere = {**LOCALS["a"], "max_tokens": 100, "where": {"max_turn": 3}}
    with pytest.raises(ConfigError, match=r"'a' and 'again' are one model twice"):
        build({**LOCALS, "again": elsewhere, "all": {"kind": "ensemble", "members": ["a", "again"]}})


def test_vocabularies_of_other_sizes_have_no_mean() -> None:
    with pytest.raises(ConfigError, match=r"teachers\.all\.members: their vocabularies .*a has 61, d has 70 tokens"):
        build({**LOCALS, "all": {"kind": "ensemble", "members": ["a", "d"]}})


def test_a_member_without_hidden_states_is_told_by_name() -> None:
    [trajectory, *_] = EPISODES
    one, other = (build(LOCALS)[name].annotate([trajectory])[0] for name in ("a", "b"))

    with pytest.raises(TeacherError, match="teacher 'b' gave a Sampled block, and an ensemble reads hidden states"):
        mixed("all", trajectory, [one, replace(other, block=Sampled())], {}, 1.0, [trajectory.segments[0].turn_T >= 0])
