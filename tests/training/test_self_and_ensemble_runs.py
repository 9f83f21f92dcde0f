"""Runs whose teachers are the student itself, or several models as one: what they read, who acts, and going on from a checkpoint."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases
from torch import Tensor

from agentopd import records
from agentopd.chat import Chat
from agentopd.config import Config, load_config
from agentopd.errors import ConfigError, TrainingError
from agentopd.freezing import Twin
from agentopd.objective import Rows
from agentopd.training.checks.roles import used_teachers
from agentopd.training.checks.trial import try_own_parts
from agentopd.training.loop.checkpoints import TENSORS
from agentopd.training.run.whole import train

MARK = "Psst, it comes to"
TEACHERS: dict[str, Any] = {
    "all": {"kind": "ensemble", "members": ["slow", "old"]},
    "slow": {"kind": "self", "average": 0.25, "hint": MARK + " {answer}."},
    "old": {"kind": "self", "every": 2},
    "unused": {"kind": "local", "model": "nowhere"},
}
ACTORS = {"student": 0.5, "old": 0.5}
METHOD: dict[str, Any] = {
    "sources": {"fresh": {"actors": ACTORS}},
    "terms": [{"target": {"name": "all"}, "where": {"actor": ["student", "old"]}}],
}
LORA = {"r": 2, "lora_alpha": 4}
BOTH = pytest.mark.parametrize("lora", [None, LORA])


def config(*overrides: str, lora: Mapping[str, int] | None = None, **train: Any) -> Config:
    raw = cases.raw(lora=lora, **train)
    raw["teachers"], raw["method"] = TEACHERS, METHOD
    raw["stages"] |= {"teacher": None}
    return load_config(raw, overrides)


def trained(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@BOTH
def test_a_run_leaves_what_they_said_and_no_hint(lora: dict[str, int] | None, tmp_path: Path) -> None:
    made = train(config(lora=lora, steps=3), tmp_path / "run")
    kept = list(records.open(tmp_path / "run"))
    for record in kept:
        texts = [made.tokenizer.decode(segment.tokens_T.tolist()) for segment in record.trajectory.segments]
        assert not any(MARK in text for text in texts)
        said = {annotation.teacher: annotation for annotation in record.annotations}
        assert list(said) == ["all", "slow", "old"]
        parts = said["all"].statistics
        np.testing.assert_allclose(parts["aleatoric"], (said["slow"].entropy_N + said["old"].entropy_N) / 2, rtol=1e-4)
        np.testing.assert_allclose(parts["aleatoric"] + parts["epistemic"], said["all"].entropy_N, rtol=1e-4, atol=1e-5)
        mean = np.logaddexp(said["slow"].taken_logprob_N, said["old"].taken_logprob_N) - np.log(2)
        np.testing.assert_allclose(said["all"].taken_logprob_N, mean, rtol=1e-3, atol=1e-4)
    rows = Rows.of(kept)
    assert (rows.teachers["all"].statistics["epistemic"] >= 0).all()
    assert rows.teachers["all"].statistics["epistemic"].max() > 0  # the hint makes a difference
    assert np.isfinite(made.metrics["train/teacher_entropy/all"])
    # the one that is shown a hint is no student, and plays a panel
    assert cases.panels(tmp_path / "run").keys() == {"student_before", "slow", "student_after"}


@BOTH
def test_they_follow_the_optimisers_steps(lora: dict[str, int] | None, tmp_path: Path) -> None:
    run = cases.trainer(config(lora=lora, steps=3), tmp_path)
    slow, old = (run.river.teachers[name].model for name in ("slow", "old"))
    assert isinstance(slow, Twin)
    assert isinstance(old, Twin)
    held = [trained(run.student)]
    changed, told = run.river.weights_changed, []

    def noted(student: Any) -> None:
        changed(student)
        held.append(trained(run.student))
        told.append((run.river.policies["old"].version, run.river.policies["slow"].version))

    run.river.weights_changed = noted
    run.train()
    assert told == [(0, 1), (1, 2), (1, 3)]
    for name, value in old.weights.items():
        assert torch.equal(value, held[2][name])
        average = held[0][name].double()
        for after in held[1:]:
            average += 0.25 * (after[name].double() - average)
        torch.testing.assert_close(slow.weights[name].double(), average, rtol=1e-5, atol=1e-7)


def test_a_previous_self_acts_by_its_own_weights_and_its_caches_die(tmp_path: Path) -> None:
    """What it writes in the third step is what a student with the weights of the second step writes."""
    run = cases.trainer(config("objective.sources.fresh.actors={old: 1}", steps=4, tasks_per_step=4), tmp_path)
    for _ in range(3):
        with torch.no_grad():
            for parameter in run.student.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        run.river.weights_changed(run.student)
        if run.river.policies["old"].version == 1 and run.river.policies["student"].version == 2:
            held = cases.model(0)
            held.load_state_dict(run.student.state_dict())
    acted = run.river.draw(3).records
    only = "objective.sources.fresh.actors={student: 1}"
    expected = cases.trainer(config(only, steps=4, tasks_per_step=4), tmp_path / "held", model=held).river.draw(3)
    for mine, theirs in zip(acted, expected.records, strict=True):
        assert {turn.policy_version for turn in mine.trajectory.turns} == {1}
        for one, other in zip(mine.trajectory.segments, theirs.trajectory.segments, strict=True):
            np.testing.assert_array_equal(one.tokens_T, other.tokens_T)
            np.testing.assert_allclose(one.logprob_T, other.logprob_T, atol=1e-5)


@BOTH
def test_invariant_10_a_resumed_run_equals_the_uninterrupted_one(lora: dict[str, int] | None, tmp_path: Path) -> None:
    whole = cases.trainer(config(lora=lora, steps=4, save_every=1), tmp_path / "whole")
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    state = json.loads((checkpoint / "river.json").read_text())["teachers"]
    assert state["old"]["steps"] == 3
    assert not list(checkpoint.glob("*.pkl"))
    again = cases.trainer(config(lora=lora, steps=4, save_every=1), tmp_path / "again")
    again.train(resume_from_checkpoint=str(checkpoint))
    assert cases.same_weights(cases.weights(again.student), cases.weights(whole.student))
    mine, theirs = (
        {name: value for name, value in run.step_metrics.items() if "second" not in name} for run in (whole, again)
    )
    assert mine == theirs
    for name in ("slow", "old"):
        kept, restored = whole.river.teachers[name].state(), again.river.teachers[name].state()
        assert kept["steps"] == restored["steps"] == 4
        assert cases.same_weights(kept["weights"], restored["weights"])
        assert whole.river.policies[name].version == again.river.policies[name].version
    broken = shutil.copytree(checkpoint, tmp_path / "checkpoint-3")
    (broken / TENSORS).write_bytes(b"no tensors")
    with pytest.raises(TrainingError, match=r"checkpoint-3: river\.safetensors cannot be loaded"):
        cases.trainer(config(lora=lora, steps=4, save_every=1), tmp_path / "third").train(
            resume_from_checkpoint=str(broken)
        )


def test_the_hint_is_read_by_the_average_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cases.trainer(
        config("objective.sources.fresh.actors={slow: 0.5, old: 0.25, student: 0.25}", tasks_per_step=8), tmp_path
    )
    chat: Chat = run.river.chat
    read: list[tuple[str, bool]] = []
    for name, policy in run.river.policies.items():

        def noted(requests: Any, name: str = name, act: Any = policy.act) -> Any:
            read.extend((name, MARK in str(chat.tokenizer.decode(list(r.tokens)))) for r in requests)
            return act(requests)

        monkeypatch.setattr(policy, "act", noted)
    run.river.draw(0)
    assert {name for name, _ in read} >= {"slow", "old"}
    assert all(shown == (name == "slow") for name, shown in read)


def test_the_student_stays_its_own_teacher_whatever_teacher_model_is_given(tmp_path: Path) -> None:
    fixed = config("teachers.old={kind: self}", "teachers.slow={kind: privileged, hint: '{answer}'}")
    run = cases.trainer(fixed, tmp_path)
    old, slow = (run.river.teachers[name].model for name in ("old", "slow"))
    assert old is not None
    assert slow is not None
    assert cases.same_weights(cases.weights(old), cases.weights(run.student))
    assert cases.same_weights(cases.weights(slow), cases.weights(cases.model(1)))


def test_one_model_given_in_python_does_not_stand_for_two_members(tmp_path: Path) -> None:
    members = [f"teachers.{name}={{kind: local, model: {name}}}" for name in ("slow", "old")]
    with pytest.raises(
        ConfigError, match=r"stand for teachers\.slow and teachers\.old, of which teachers\.all is the mean"
    ):
        cases.trainer(config(*members, "objective.sources.fresh.actors={student: 1}"), tmp_path)
    other = "teachers.old={kind: privileged, model: old, hint: '{answer}'}"
    cases.trainer(config(members[0], other, "objective.sources.fresh.actors={student: 1}"), tmp_path)


def test_members_are_made_though_no_term_names_them_and_others_are_not() -> None:
    assert list(used_teachers(config())) == ["all", "slow", "old"]


def misspelt(rows: Rows, teacher: Any) -> Any:
    return teacher.statistics["epistemical"]


def doubtful(rows: Rows, teacher: Any) -> Any:
    return np.exp(-teacher.statistics["epistemic"])


def test_a_weight_of_ones_own_is_tried_with_the_statistics_of_an_ensemble() -> None:
    weight = "objective.terms.0.weight=test_self_and_ensemble_runs:{}"
    try_own_parts(config(weight.format("doubtful")), 300)
    with pytest.raises(ConfigError, match=r"raised KeyError: 'epistemical'"):
        try_own_parts(config(weight.format("misspelt")), 300)


def test_after_merging_an_earlier_self_of_an_adapter_no_longer_acts(tmp_path: Path) -> None:
    run = cases.trainer(config(lora=LORA), tmp_path)
    assert run.play_panel(1, actor="old").success.n == 1
    run.merge()
    with pytest.raises(
        ConfigError, match=r"^actor='old': this teacher is the student with earlier values of its adapter"
    ):
        run.play_panel(1, actor="old")
