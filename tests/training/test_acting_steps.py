"""A step learned from episodes in which others act too: who acted, how deep, and which tokens are trained."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import training_cases as cases

from agentopd.errors import ConfigError
from agentopd.settings.choice import at
from agentopd.types import Trajectory


def drawn(overrides: Sequence[str], folder: Path, step: int = 0) -> list[Trajectory]:
    river = cases.trainer(cases.tiny(*overrides, steps=8), folder).river
    return [record.trajectory for record in river.draw(step).records]


def written(trajectories: Sequence[Trajectory]) -> Counter[str]:
    """Action tokens by actor."""
    counts: Counter[str] = Counter()
    for trajectory in trajectories:
        for segment in trajectory.segments:
            counts.update(np.array(trajectory.actors)[segment.actor_T[segment.turn_T >= 0]].tolist())
    return counts


@pytest.mark.parametrize(
    ("sampler", "others"),
    [
        ("{acting: {kind: prefix, turns: 2}}", {"expert"}),
        ("{acting: {kind: turns, probability: 0.5}}", {"teacher"}),
        ("{acting: {kind: takeover}}", {"teacher"}),
        ("{acting: {kind: tokens}}", set()),
        ("{acting: {kind: speculative, k: 50}}", {"teacher"}),
        ("{kind: frozen, episodes: 2, acting: {kind: turns, probability: 0.5}}", {"teacher"}),
    ],
)
def test_a_step_trains_the_students_tokens_alone(sampler: str, others: set[str], tmp_path: Path) -> None:
    trainer = cases.trainer(cases.tiny(f"objective.sampler={sampler}", "rollout.max_new_tokens=48", steps=1), tmp_path)
    counts = written([record.trajectory for record in trainer.river.draw(0).records])
    assert set(counts) == {"student"} | others
    student = trainer.student
    before = cases.weights(student)
    trainer.train()
    assert trainer.step_metrics["objective/loss/rows"] == counts["student"]
    assert not cases.same_weights(before, cases.weights(student))


def test_depth_follows_its_schedule_and_never_passes_the_rollouts(tmp_path: Path) -> None:
    # as TCOD deepens: 1 + floor(step / 2)
    deeper = "objective.sampler={max_turns: {kind: linear, start: 1, end: 5, steps: 8}}"
    river = cases.trainer(cases.tiny(deeper, steps=8), tmp_path).river
    depths = [max(len(r.trajectory.turns) for r in river.draw(step).records) for step in range(8)]
    assert depths == [1, 1, 2, 2, 3, 3, 4, 4]
    river = cases.trainer(cases.tiny("objective.sampler={max_turns: 9}"), tmp_path).river
    assert max(len(r.trajectory.turns) for r in river.draw(0).records) == 4


def test_turnopd_goes_as_deep_as_the_divergence_lies_also_after_a_resume(tmp_path: Path) -> None:
    config = cases.tiny(
        "objective.sampler.max_turns.every=3", "rollout.max_new_tokens=8", method="turnopd", steps=4, save_every=2
    )
    trainer = cases.trainer(config, tmp_path)
    trainer.train()
    turns = [entry["rollout/turns"] for entry in trainer.state.log_history if "rollout/turns" in entry]
    (state,) = trainer.river.schedules.values()
    cap = config.objective.sources["fresh"].max_turns
    depths = [at(cap, replace(trainer.river.clock(step), states=trainer.river.schedules), "cap") for step in (4, 6)]
    assert depths == [math.ceil(state["centre"]), 1000.0]
    assert 1.0 < state["centre"] < depths[0] < 4.0
    assert state["solved"] is None
    assert [turns[0], turns[3]] == [4.0, 4.0]
    assert turns[1] == turns[2] < 4.0
    again = cases.trainer(config, tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.river.schedules == trainer.river.schedules
    assert cases.same_weights(cases.weights(trainer.student), cases.weights(again.student))


def test_tokens_are_capped_by_turn_and_by_episode(tmp_path: Path) -> None:
    for trajectory in drawn(["objective.sampler={max_new_tokens: 5.5}"], tmp_path):
        assert {turn.stop - turn.start for turn in trajectory.turns} <= set(range(6))
    for trajectory in drawn(["objective.sampler={max_episode_tokens: 30}"], tmp_path):
        assert sum(turn.stop - turn.start for turn in trajectory.turns) == 30
        assert trajectory.outcome.stop == "token_limit"


def falls(clock: object) -> float:
    """A cap that leaves nothing from step 1 on."""
    return 1.0 - getattr(clock, "step", 0)


def test_a_cap_of_ones_own_that_leaves_nothing_is_named(tmp_path: Path) -> None:
    river = cases.trainer(cases.tiny(f"objective.sampler={{max_turns: {{kind: '{__name__}:falls'}}}}"), tmp_path).river
    river.draw(0)
    with pytest.raises(ConfigError, match=r"^objective\.sources\.fresh\.max_turns: 0 at step 1; a schedule gives 1"):
        river.draw(1)


def test_a_probability_follows_its_schedule(tmp_path: Path) -> None:
    # Guided-OPD: 1/2 (1 + cos(pi min(s / (0.8 S), 1))), from 1 to 0
    guided = "objective.sampler={acting: {kind: turns, probability: {kind: cosine, start: 1.0, end: 0.0, steps: 6}}}"
    assert set(written(drawn([guided], tmp_path, 0))) == {"teacher"}
    assert set(written(drawn([guided], tmp_path, 7))) == {"student"}


def test_the_same_step_is_drawn_alike(tmp_path: Path) -> None:
    overrides = ["objective.sampler={per_task: 2, acting: {kind: turns}}"]
    one, other = (drawn(overrides, tmp_path / name, 3) for name in "ab")
    assert [[turn.text for turn in t.turns] for t in one] == [[turn.text for turn in t.turns] for t in other]
    assert len({tuple(turn.actor for turn in t.turns) for t in one}) > 1


def nobody(*, by: str = "teacher") -> str:
    """A kind of one's own that is none."""
    return by


SAMPLER = "objective.sampler="
MISTAKES = [
    ("{max_turns: 0}", r"sampler\.max_turns: a cap leaves at least 1, got 0"),
    ("{max_turns: {kind: linear, start: 2, end: 0}}", r"sampler\.max_turns: a cap leaves at least 1, got 0"),
    ("{acting: prefx}", r"no acting is called 'prefx' \(did you mean 'prefix'\?\)"),
    ("{acting: {kind: turns, by: teachr}}", r"sources\.fresh\.acting\.by: nobody is called 'teachr' \(did you mean"),
    ("{acting: {kind: turns, by: student}}", r"acting\.by=student: the student acts where nobody else does"),
    ("{acting: {kind: turns, probability: 1.5}}", r"probability: Input should be less than or equal to 1"),
    ("{acting: {kind: tokens, by: expert}}", r"acting\.by=expert: tokens needs another's distribution"),
    (
        "{acting: {kind: turns, by: judge}}",
        r"acting\.by: 'judge' is to act, and teachers\.judge\.kind=reward is no model",
    ),
    (
        "{acting: {kind: prefix, turns: 4}}",
        r"acting\.turns=4: an episode has at most 4 turns, so the student would never",
    ),
    ("{max_turns: 2, acting: {kind: prefix, turns: 2}}", r"acting\.turns=2: an episode has at most 2 turns"),
    ("{acting: {kind: prefix, turns: 0, counted_from: end}}", r"acting\.turns=0: all but so many turns"),
    ("{acting: prefix, actors: {teacher: 1.0}}", r"acting\.kind=prefix: others act within the student's own episodes"),
    ("{acting: prefix, max_new_tokens: 8}", r"max_new_tokens: the expert's actions are played whole"),
    (
        f"{{acting: '{__name__}:nobody'}}",
        r"acting\.kind=.*nobody: it makes str; derive it from agentopd\.acting\.Acting",
    ),
]


@pytest.mark.parametrize(("sampler", "message"), MISTAKES)
def test_a_mistake_is_named_before_anything_is_made(sampler: str, message: str, tmp_path: Path) -> None:
    judge = "teachers.judge={kind: reward}"
    with pytest.raises(ConfigError, match=message):
        drawn([judge, SAMPLER + sampler], tmp_path)


@pytest.mark.parametrize(
    "acting", ["prefix", "{kind: prefix, by: teacher, counted_from: end}", "{kind: takeover, mistake: disagreement}"]
)
def test_an_environment_without_the_expert_that_is_needed_is_named(acting: str, tmp_path: Path) -> None:
    overrides = ["env.id=training_envs:tests/Lengthy-v0", f"objective.sampler={{acting: {acting}}}"]
    with pytest.raises(
        ConfigError, match=r"this method learns from the environments' experts, and .*tests/Lengthy-v0 has none"
    ):
        drawn(overrides, tmp_path)


def test_a_mixtures_logprob_is_not_taken_for_the_students(tmp_path: Path) -> None:
    mixed = ["objective.sampler={acting: tokens}"]
    with pytest.raises(
        ConfigError, match=r"objective\.estimator: .* are drawn from a mixture with teacher; set .*logprobs: recomputed"
    ):
        cases.tiny(*mixed, method="thinking-machines")
    recomputed = [*mixed, "objective.estimator.logprobs=recomputed"]
    with pytest.raises(ConfigError, match=r"kind=score_function: its expected gradient .* add \{kind: importance\}"):
        cases.tiny(*recomputed, method="thinking-machines")
    cases.tiny(*recomputed, "objective.weight=importance", method="thinking-machines")
    with pytest.raises(ConfigError, match=r"acting\.kind=speculative .* keeps tokens by what they are"):
        cases.tiny("objective.sampler={acting: speculative}", method="thinking-machines")
    with pytest.raises(ConfigError, match=r"weight\.kind=disagreement: .* drawn from a mixture .*; set its logprobs"):
        cases.tiny(*mixed, "objective.weight=disagreement")
    cases.tiny(*mixed, "objective.weight={kind: disagreement, logprobs: recomputed}")
    cases.tiny(*mixed, "objective.weight=importance")  # of the student's p over the mixture's, as MiniLLM has it
