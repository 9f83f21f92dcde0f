"""Parts of one's own are tried on made-up rows before a stage is fitted, and only their own mistakes are held against them."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases
import yaml
from numpy.typing import NDArray
from torch import Tensor

from agentopd.config.shipped import load_recipe, recipes
from agentopd.errors import ConfigError
from agentopd.objective import Rows, Scored, Taken, TeacherColumns, TeacherRows, by_token, needs_live, per_row
from agentopd.settings.clock import Clock
from agentopd.teachers import Teacher, TeacherContext
from agentopd.teachers.rewards import reward
from agentopd.training.checks import trial
from agentopd.training.checks.trial import try_own_parts
from agentopd.training.run import stages
from agentopd.training.run.whole import train

HERE = "test_trial"
VOCABULARY = 300
seen: list[Rows] = []
Column = NDArray[np.float64]


def misspelt(rows: Rows, teacher: TeacherColumns) -> Any:
    return rows.turns_A  # type: ignore[attr-defined]


def one_number(rows: Rows, teacher: TeacherColumns) -> Any:
    return 1.0


def negative(rows: Rows) -> Any:
    return -np.ones(len(rows))


def too_long(scored: Scored) -> Any:
    return np.append(scored.reward_A, 0.0)


def unsummed(logp: Tensor, logq: Tensor) -> Any:
    return (logp - logq) ** 2


def detached(logp: Tensor, logq: Tensor) -> Any:
    return (logp - logq).detach().square().sum(-1)


def alone(logp: Tensor, teacher: TeacherRows) -> Any:
    return logp


def unmarked(rows: Rows, teacher: TeacherColumns) -> Any:
    return np.exp(rows.live.logprob_A)


def centred(logp: Tensor, logq: Tensor) -> Any:
    each = (logp - logq).clamp(min=-9.0, max=9.0).square().sum(-1)
    return each / each.mean()


def broken(logp: Tensor, logq: Tensor) -> Any:
    return 1 - (logp.exp() * logq.exp()).sqrt().sum(-1) + 0 * (logp - logp).abs().sqrt().sum(-1)


def ranked(logp: Tensor, teacher: TeacherRows) -> Any:
    best = logp.sum(0).topk(4).indices
    return logp[:, best], teacher.logq_N_V[:, best]  # type: ignore[index]


@by_token
def averaged(taken: Taken) -> Any:
    ratio = (taken.logq_N - taken.logp_N).square()
    return ratio / ratio.mean()


@per_row
def misread(rows: Rows, teacher: TeacherColumns | None) -> Any:
    return rows.turns_A  # type: ignore[attr-defined]


@per_row
def outside(rows: Rows, teacher: TeacherColumns | None) -> Any:
    return np.full(len(rows), 1.5)


def test_a_number_a_row_that_the_setting_does_not_take_is_named() -> None:
    config = cases.tiny(f"objective.divergence={{kind: jsd, beta: {{kind: '{HERE}:outside'}}}}", method="gkd")
    with pytest.raises(
        ConfigError, match=rf"^objective\.divergence\.beta: '{HERE}:outside' gives 1\.5 .*this was a trial"
    ):
        try_own_parts(config, VOCABULARY)


def test_a_mistake_in_a_number_a_row_is_named() -> None:
    config = cases.tiny(f"objective.divergence={{kind: jsd, beta: {{kind: '{HERE}:misread'}}}}", method="gkd")
    where = rf"^objective\.divergence\.beta\.kind={HERE}:misread raised AttributeError"
    with pytest.raises(ConfigError, match=rf"{where}.*; this was a trial on made-up rows, before anything is"):
        try_own_parts(config, VOCABULARY)


@pytest.mark.parametrize(
    ("method", "part", "name", "message"),
    [
        ("thinking-machines", "estimator", "averaged", r"returned for a row what depends on other rows of its chunk"),
        ("gkd", "divergence", "broken", r"has a gradient that is not finite; look for a square root"),
        ("agentopd", "weight", "unmarked", r"raised ValueError: rows\.live was not computed; mark .* with @needs_live"),
        (
            "gkd",
            "divergence",
            "centred",
            r"returned for a row what depends on other rows of its chunk: the gradient changes",
        ),
        (
            "gkd",
            "support",
            "ranked",
            r"returned for a row what depends on other rows of its chunk: the gradient changes",
        ),
        ("agentopd", "weight", "misspelt", r"raised AttributeError: .*'turns_A'.* \(line \d+ of .*test_trial\.py\)"),
        ("dagger", "weight", "one_number", r"returned shape \(\) of float64 for \d+ rows; return one finite number"),
        ("grpo", "aggregate", "negative", r"returned -1\.0 for row 0"),
        ("grpo", "estimator", "too_long", r"returned shape \(\d+,\) of float64 for \d+ rows"),
        ("gkd", "divergence", "unsummed", r"returned shape \(16, 300\) of torch\.float32 for rows of shape \(16,\)"),
        ("gkd", "divergence", "detached", r"returned a tensor without a gradient"),
        ("gkd", "support", "alone", r"returned shape \(16, 300\) of torch\.float32 for 16 rows; return the log-prob"),
    ],
)
def test_a_mistake_in_a_part_of_ones_own_is_named(method: str, part: str, name: str, message: str) -> None:
    config = cases.tiny(f"objective.{part}={{kind: '{HERE}:{name}'}}", method=method)
    where = rf"^objective\.{part}\.kind={HERE}:{name} "
    with pytest.raises(ConfigError, match=rf"{where}{message}.*; this was a trial on made-up rows, before anything is"):
        try_own_parts(config, VOCABULARY)


def test_it_is_found_before_a_stage_is_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "fit", lambda *_: pytest.fail("a stage was fitted first"))
    config = cases.tiny(f"objective.weight={{kind: '{HERE}:misspelt'}}", "stages.teacher={episodes: 4, steps: 3}")
    with pytest.raises(ConfigError, match="misspelt raised AttributeError"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def watchful(rows: Rows, teacher: TeacherColumns | None) -> Column:
    """Reads what a weight may read, and divides by what is never 0."""
    seen.append(rows)
    assert np.isfinite(rows.logprob_A).all()
    assert rows.token_A.max() < VOCABULARY
    won = rows.episodes.success_B[rows.trajectory_A]
    total_A = rows.episodes.reward_B[rows.trajectory_A] / rows.episodes.reward_B.std()
    if teacher is not None:
        assert (teacher.taken_logprob_A < 0).all()
        assert ((teacher.entropy_A > 0) & (teacher.entropy_A < np.log(VOCABULARY))).all()
    return np.where(won, total_A, 1.0)


@pytest.mark.parametrize("method", [name for name in recipes() if "needs" not in load_recipe(name)])
def test_the_made_up_rows_reach_the_parts_of_every_method(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    recipe = load_recipe(method)
    first = recipe.get("terms", [recipe])[0]
    given = first.get("weight", [])  # some terms are right with their own weights alone
    first["weight"] = [{"kind": f"{HERE}:watchful"}, *(given if isinstance(given, list) else [given])]
    first.get("where", {}).pop("success", None)
    watched = tmp_path / "watched.yaml"
    watched.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    monkeypatch.setattr("test_trial.seen", [])
    before = torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        try_own_parts(cases.tiny(method=str(watched), tasks_per_step=4), VOCABULARY)
    (rows,) = seen
    assert len(rows) >= 8
    assert set(rows.episodes.env_B) == {"agentopd/Checkout-v0"}
    assert set(rows.episodes.success_B) == {True, False}
    assert caplog.records == []
    assert torch.equal(torch.get_rng_state(), before)


@needs_live
def agreement(rows: Rows, teacher: TeacherColumns) -> Column:
    column: Column = np.exp(-np.abs(teacher.taken_logprob_A - rows.live.logprob_A))
    return column


def within_groups(scored: Scored) -> Column:
    """Divides by the spread of each task's episodes."""
    episodes, trajectory_A = scored.rows.episodes, scored.rows.trajectory_A
    advantage_A = np.zeros(len(scored.rows))
    for task in np.unique(episodes.task_B[trajectory_A]):
        mine = episodes.task_B == task
        spread = episodes.reward_B[mine].std()
        advantage_A += np.where(mine[trajectory_A], episodes.reward_B[trajectory_A] / spread, 0.0)
    return advantage_A


def likely(logp: Tensor, teacher: TeacherRows) -> tuple[Tensor, Tensor]:
    assert teacher.logq_N_V is not None
    ids_N_K = teacher.logq_N_V.topk(64).indices
    return logp.gather(1, ids_N_K), teacher.logq_N_V.gather(1, ids_N_K)


SELECTIVE = "objective.where={min_turn: 6, every: 3, tool: submit, success: true, actor: student}"
DEEP = "rollout.max_turns=8"


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("agentopd", ["weight={kind: 'test_trial:agreement'}", "support={kind: 'test_trial:likely'}"]),
        ("grpo", ["estimator={kind: 'test_trial:within_groups'}"]),
    ],
)
def test_sound_parts_pass(method: str, overrides: list[str]) -> None:
    try_own_parts(cases.tiny(*(f"objective.{one}" for one in overrides), method=method), VOCABULARY)


def test_rows_are_made_for_a_selective_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_trial.seen", [])
    try_own_parts(cases.tiny(SELECTIVE, DEEP, f"objective.weight={{kind: '{HERE}:watchful'}}"), VOCABULARY)
    assert set(seen[0].turn_A) == {6}
    assert seen[0].episodes.tools_B[0][6] == ("submit",)


def own_teacher(context: TeacherContext) -> Teacher:
    return reward(context)


def falling(clock: Clock) -> float:
    """Below 0 after the first step, which the run refuses."""
    return 1.0 - 2.0 * clock.step


def test_what_made_up_rows_cannot_know_is_held_against_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher of one's own may say anything; a shipped part's complaint is for the run to make."""
    weight = f"objective.weight={{kind: '{HERE}:misspelt'}}"
    try_own_parts(cases.tiny(f"teachers.teacher={{kind: '{HERE}:own_teacher'}}", weight), VOCABULARY)
    falling = f"objective.coefficient={{kind: '{HERE}:falling'}}"
    try_own_parts(cases.tiny(falling, f"objective.weight={{kind: '{HERE}:watchful'}}", method="grpo"), VOCABULARY)
    monkeypatch.setattr(trial, "_try", lambda *_: pytest.fail("tried without need"))
    try_own_parts(cases.tiny(), VOCABULARY)
