"""Teachers of every kind train a student; several of them teach one trajectory, each its own turns."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases
from model_cases import save_small
from transformers import LlamaForSequenceClassification

from agentopd import records
from agentopd.config import Config, load_config
from agentopd.objective import Rows, prepare
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.whole import check, train
from agentopd.types import Dense, Record, Trajectory

SCORED = {"kind": "score_function", "baseline": "batch_mean"}
BOTH: dict[str, Any] = {"per_task": 4, "actors": {"student": 3.0, "expert": 1.0}, "divided": True}


def letters(trajectory: Trajectory) -> list[float | None]:
    """Pays for the letters of every turn but the second."""
    return [None if turn.index == 1 else float(len(turn.text) % 7) for turn in trajectory.turns]


def total(trajectory: Trajectory) -> float:
    """Pays for all letters."""
    return float(sum(len(turn.text) for turn in trajectory.turns) % 11)


LOCAL = {"kind": "local", "model": "somewhere"}
SELF: dict[str, Any] = {"kind": "self", "every": 3}
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "privileged": ({"teacher": {"kind": "privileged", "hint": "The word is {word}."}}, {}),
    "ensemble": (
        {"teacher": {"kind": "ensemble", "members": ["one", "two"]}, "one": LOCAL, "two": SELF},
        {"weight": {"kind": "epistemic"}},
    ),
    "routed": (
        {"teacher": {**LOCAL, "where": {"max_turn": 0}}, "other": {**SELF, "where": {"min_turn": 1}}},
        {"terms": [{"target": {"name": "teacher"}}, {"name": "other", "target": {"name": "other"}}]},
    ),
    "reward": ({"judge": {"kind": "reward"}}, {"sampler": {"per_task": 2}}),
    "verifier": (
        {"judge": {"kind": "verifier", "check": "test_mixed_teachers:letters", "normalised": "group"}},
        {"sampler": {"per_task": 4}},
    ),
    "reward_model": ({"judge": {"kind": "reward_model", "of": "turn", "activation": "sigmoid"}}, {}),
    "discriminator": (
        {"judge": {"kind": "discriminator", "learning_rate": 0.01, "normalised": "group"}},
        {"sampler": BOTH},
    ),
}
"""Of each, the teachers, and what is special about the method."""


def config(name: str, place: str = "somewhere", *overrides: str, **settings: Any) -> Config:
    teachers, method = METHODS[name]
    if name == "reward_model":
        teachers = {"judge": {**teachers["judge"], "model": place}}
    if "judge" in teachers:
        method = {"target": {"kind": "reward", "name": "judge"}, "estimator": SCORED, **method}
    raw = cases.raw(method=method, **settings)
    raw |= {"env": {"id": "training_envs:tests/Paying-v0"}, "teachers": teachers}
    return load_config(raw, ["rollout.max_new_tokens=16", *overrides])


@cache
def classifier() -> str:
    """A folder with a classifier of conversations and its tokenizer."""
    folder = Path(cases.stage_cache()) / "classifier"
    return str(save_small(LlamaForSequenceClassification, cases.tokenizer(), folder))


@pytest.mark.parametrize("name", METHODS)
def test_a_teacher_of_each_kind_trains_for_twenty_steps(name: str, tmp_path: Path) -> None:
    place = classifier() if name == "reward_model" else "somewhere"
    trainer = cases.trainer(config(name, place, steps=20), tmp_path)
    before, losses = cases.weights(trainer.student), []
    learned = trainer.river.learned

    def noted(step: int, metrics: Any) -> None:
        losses.append(metrics["loss"])
        learned(step, metrics)

    trainer.river.learned = noted  # type: ignore[method-assign]
    trainer.train()
    assert len(losses) == 20
    assert all(map(math.isfinite, losses))
    after = cases.weights(trainer.student)
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    assert all(value.isfinite().all() for value in after.values())
    if name == "discriminator":
        assert trainer.river.teachers["judge"].version == 20


@pytest.mark.parametrize("lora", [None, {"r": 2, "lora_alpha": 4}])
def test_invariant_10_a_run_beside_a_discriminator_goes_on_bit_for_bit(
    lora: dict[str, int] | None, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"lora": lora, "steps": 4, "save_every": 1}
    whole = cases.trainer(config("discriminator", **settings), tmp_path / "whole")
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    kept = json.loads((checkpoint / "river.json").read_text())["teachers"]["judge"]
    assert (kept["steps"], kept["updates"]) == (3, 3)
    again = cases.trainer(config("discriminator", **settings), tmp_path / "again")
    again.train(resume_from_checkpoint=str(checkpoint))
    assert cases.same_weights(cases.weights(again.student), cases.weights(whole.student))
    mine, theirs = (run.river.teachers["judge"].state() for run in (whole, again))
    assert cases.same_weights(mine["weights"], theirs["weights"])
    assert mine["steps"] == theirs["steps"] == 4
    for name, moments in mine["moments"].items():
        assert cases.same_weights(moments, theirs["moments"][name])


def test_a_discriminator_is_a_teacher_of_a_whole_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = train(config("discriminator", "somewhere", "stages.teacher=null"), run)
    assert cases.panels(run).keys() == {"student_before", "student_after"}  # it cannot act
    assert {f"teacher/judge/{what}" for what in ("pairs", "accuracy", "loss", "skipped")} <= made.metrics.keys()
    assert made.metrics["teacher/judge/pairs"] == 6.0  # of two tasks three each
    assert math.isfinite(made.metrics["train/loss"])
    for record in records.open(run):
        (said,) = record.annotations
        assert said.skip_S.all() == (record.trajectory.actors == ("expert",))


def test_a_reward_model_is_looked_at_before_a_run(tmp_path: Path) -> None:
    check(config("reward_model", classifier()), tmp_path / "run")
    with pytest.raises(Exception, match=r"^teachers\.judge\.model='.*nowhere': there is no such folder"):
        check(config("reward_model", str(tmp_path / "nowhere")), tmp_path / "run")


# Several on one trajectory.

TERMS = [
    {"name": "copy", "target": {"name": "first"}},
    {"name": "praise", "target": {"kind": "reward", "name": "judge"}, "estimator": {"kind": "score_function"}},
    {"name": "seen", "target": {"name": "shown"}},
]


def mixed(folder: str, *overrides: str) -> Config:
    """On the first turn logits of a model, on the second a reward, on the third logits of one that is shown the answer, on the fourth nothing."""
    raw = cases.raw(method={"terms": TERMS}, steps=2)
    raw["teachers"] = {
        "first": {"kind": "local", "model": folder, "where": {"max_turn": 0}},
        "judge": {
            "kind": "verifier",
            "check": "test_mixed_teachers:total",
            "where": {"min_turn": 1, "max_turn": 1},
        },
        "shown": {"kind": "privileged", "hint": "It is {answer}.", "where": {"min_turn": 2, "max_turn": 2}},
    }
    raw["stages"] |= {"teacher": None}
    return load_config(raw, ["rollout.max_new_tokens=16", *overrides])


@cache
def folder() -> str:
    place = Path(cases.stage_cache()) / "first"
    cases.model(1).save_pretrained(place)
    cases.tokenizer().save_pretrained(place)
    return str(place)


def taught(record: Record) -> dict[str, list[int]]:
    """The turns that each teacher taught, by what stands in its annotation."""
    found = {}
    for said in record.annotations:
        segments = record.trajectory.segments
        rows = {int(segments[s].turn_T[t]) for s, t in zip(said.segment_N.tolist(), said.index_N.tolist(), strict=True)}
        rewarded = set(np.flatnonzero(~np.isnan(said.reward_S)).tolist())
        assert rows | rewarded == set(np.flatnonzero(~said.skip_S).tolist())
        found[said.teacher] = sorted(rows | rewarded)
    return found


def test_each_of_three_teachers_teaches_its_own_turns_of_one_trajectory(tmp_path: Path) -> None:
    run, given = tmp_path / "run", mixed(folder())
    made = train(given, run)
    assert math.isfinite(made.metrics["train/loss"])
    kept = list(records.open(run))
    assert len(kept) == 4
    for record in kept:
        assert len(record.trajectory.turns) == 4
        assert taught(record) == {"first": [0], "judge": [1], "shown": [2]}
        reward = {said.teacher: said.reward_S for said in record.annotations}["judge"]
        assert reward[1] == total(record.trajectory)
    rows = Rows.of(kept)
    ready = prepare(given.objective, rows, trainer_of(given, tmp_path).river.clock(0))
    for term, turn in zip(ready.terms, range(3), strict=True):
        assert set(rows.turn_A[term.learns_A].tolist()) == {turn}
        assert term.idle is None
    assert not np.any([term.coef_A[rows.turn_A == 3] for term in ready.terms])
    assert [made.metrics[f"teacher/{name}/turns"] for name in ("first", "judge", "shown")] == [0.25] * 3
    last = [one for one in kept if one.trajectory.key.step == 1]
    assert made.metrics["teacher/judge/reward"] == pytest.approx(np.mean([total(one.trajectory) for one in last]))
    by_term = {f"train/{name}" for name in ("copy/divergence", "praise/surrogate", "seen/divergence")}
    assert by_term <= made.metrics.keys()
    for depth, name in enumerate(("copy/divergence", "praise/surrogate", "seen/divergence"), 1):
        assert [turn for turn in range(1, 5) if f"depth/{name}/{turn}" in made.metrics] == [depth]


def trainer_of(given: Config, place: Path) -> AgentOPDTrainer:
    return cases.trainer(given, place / "trainer")


def total_loss(run: AgentOPDTrainer, made: list[Record]) -> tuple[float, list[torch.Tensor]]:
    """The loss of a batch, and its gradient."""
    run.student.zero_grad()
    _, batches = run.learner.prepare(run.student, made, run.river.clock(0))
    loss = torch.stack([run.learner.loss(run.student, batch).loss for batch in batches]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), [p.grad.clone() for p in run.student.parameters() if p.grad is not None]


def test_invariant_2_what_a_teacher_thinks_of_turns_that_it_skips_is_not_read(tmp_path: Path) -> None:
    """The model reads all turns, says that it teaches the first alone, and is then made to think otherwise of the others."""
    run = trainer_of(mixed(folder(), "teachers.first.where={}"), tmp_path)
    made, noisy = [], []
    for record in run.river.draw(0).records:
        first, *others = record.annotations
        turn_N = np.concatenate([one.turn_T[one.turn_T >= 0] for one in record.trajectory.segments])
        assert isinstance(first.block, Dense)
        assert len(turn_N) == len(first.index_N)
        skipping = replace(first, skip_S=np.arange(len(first.skip_S)) > 0)
        hidden_N_H = first.block.hidden_N_H.clone()
        hidden_N_H[turn_N > 0] += 10 * torch.randn(int((turn_N > 0).sum()), hidden_N_H.shape[1])
        other = replace(skipping, block=Dense(hidden_N_H, first.block.head), entropy_N=first.entropy_N * (turn_N == 0))
        made.append(replace(record, annotations=(skipping, *others)))
        noisy.append(replace(record, annotations=(other, *others)))
    loss, gradient = total_loss(run, made)
    same_loss, same_gradient = total_loss(run, noisy)
    assert loss == same_loss
    assert all(torch.equal(one, other) for one, other in zip(gradient, same_gradient, strict=True))
    everywhere = [
        replace(
            one,
            annotations=(replace(one.annotations[0], skip_S=one.annotations[0].skip_S & False), *one.annotations[1:]),
        )
        for one in noisy
    ]
    assert total_loss(run, everywhere)[0] != loss
