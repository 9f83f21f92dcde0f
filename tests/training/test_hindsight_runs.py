"""Runs whose teacher is shown what is known once an episode is over."""

from pathlib import Path
from typing import Any

import pytest
import training_cases as cases

from agentopd import records
from agentopd.config import Config, load_config
from agentopd.envs.checkout import Checkout
from agentopd.errors import ConfigError
from agentopd.models import load_tokenizer
from agentopd.training.run.whole import check, train

MARK = "Psst, so it was"


METHOD = {"target": {"name": "old"}}
GROUPS = METHOD | {"sampler": {"per_task": 2}}


def config(hint: Any, method: dict[str, Any] = METHOD, cold_start: Any = None, **train: Any) -> Config:
    raw = cases.raw(method=method, **train)
    raw["teachers"] = {"old": {"kind": "self", "every": 1, "hint": hint}}
    raw["stages"] |= {"teacher": None, "cold_start": cold_start}
    return load_config(raw)


@pytest.mark.parametrize("lora", [None, {"r": 2, "lora_alpha": 4}])
def test_invariant_8_the_live_student_reads_what_came_next_and_the_student_does_not(
    lora: dict[str, int] | None, tmp_path: Path
) -> None:
    made = train(config(MARK + ": {next_observation}", lora=lora), tmp_path / "run")
    tokenizer = load_tokenizer(str(tmp_path / "run" / "student"))
    taught = 0
    for record in records.open(tmp_path / "run"):
        texts = [tokenizer.decode(segment.tokens_T.tolist()) for segment in record.trajectory.segments]
        assert not any(MARK in text for text in texts)
        [annotation] = record.annotations
        nothing = [not turn.observations for turn in record.trajectory.turns]
        assert annotation.skip_S.tolist() == nothing
        taught += len(annotation.taken_logprob_N)
    assert taught
    assert made.metrics["train/loss"] > 0  # it knows more than the student
    assert cases.panels(tmp_path / "run").keys() == {"student_before", "student_after"}


def test_only_those_with_a_sibling_that_succeeded_are_taught(tmp_path: Path) -> None:
    sources = {"fresh": {"actors": {"student": 0.5, "expert": 0.5}, "divided": True, "per_task": 2}}
    train(config(MARK + ": {sibling}", {"terms": [METHOD], "sources": sources}), tmp_path / "run")
    kept = list(records.open(tmp_path / "run"))
    won = {(one.trajectory.key.step, one.trajectory.task.id) for one in kept if one.trajectory.outcome.success}
    taught = 0
    for record in kept:
        [annotation] = record.annotations
        sibling = (
            record.trajectory.key.step,
            record.trajectory.task.id,
        ) in won and not record.trajectory.outcome.success
        assert annotation.skip_S.all() == (not sibling)
        taught += sibling
    assert taught


def test_nobody_acts_by_what_is_not_known_yet() -> None:
    acting = config("{sibling}", METHOD | {"sampler": {"per_task": 2, "actors": {"student": 0.5, "old": 0.5}}})
    with pytest.raises(
        ConfigError, match=r"actors.*'old' is to act, and teachers.old.hint names sibling, known only once"
    ):
        check(acting)


def test_a_fact_of_the_environment_whose_name_means_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkout, "privileged", lambda self: {"sibling": "my brother"})
    with pytest.raises(
        ConfigError, match=r"teachers.old, agentopd/Checkout-v0: the environment tells a fact called 'sibling'"
    ):
        check(config("{sibling}", GROUPS))


def test_a_stage_has_no_hindsight_to_show() -> None:
    with pytest.raises(ConfigError, match="there are 0 hints that can be shown in them"):
        check(config("{sibling}", GROUPS, cold_start={"episodes": 4, "steps": 1, "privileged": 0.5}))


def test_a_sibling_takes_several_episodes_of_a_task() -> None:
    with pytest.raises(
        ConfigError, match=r"teachers\.old\.hint: {sibling} is another episode .* per_task: 1; set objective\.sampler"
    ):
        config("{sibling}")
    config("{{sibling}} of {answer}")  # braces that are text


def test_demonstrations_are_looked_for_before_anything_is_fitted(tmp_path: Path) -> None:
    hint = {"text": "{demonstration}", "demonstrations": str(tmp_path / "nowhere")}
    with pytest.raises(ConfigError, match=r"^teachers\.old\.hint\.demonstrations=.*nowhere: "):
        check(config(hint))


def test_what_a_self_follows_is_one_thing_before_anything_is_fitted() -> None:
    raw = cases.raw(method=METHOD)
    raw["teachers"] = {"old": {"kind": "self", "average": 0.5, "interpolate": 0.5}}
    with pytest.raises(
        ConfigError, match=r"^teachers\.old\.average=0\.5: it follows the student, and interpolate=0\.5"
    ):
        check(load_config(raw))
