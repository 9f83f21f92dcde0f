"""Teachers that say nothing, as a person is told after the first step."""

import logging
from pathlib import Path

import pytest
import training_cases as cases

from agentopd.training.checks.unused import unused


def test_a_teacher_whose_where_selects_nothing_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    river = cases.trainer(cases.tiny("teachers.teacher.where={tool: nothing}"), tmp_path).river
    with caplog.at_level(logging.WARNING):
        for step in range(2):
            river.draw(step)
    said = [one.message for one in caplog.records if "teachers.teacher.where" in one.message]
    assert len(said) == 1
    assert said[0].startswith("teachers.teacher.where={'tool': ['nothing']}: it selects no turn of the first step's")


def test_a_teacher_that_selects_something_is_not_told_of(tmp_path: Path) -> None:
    trainer = cases.trainer(cases.tiny(), tmp_path)
    played = [record.trajectory for record in trainer.river.draw(0).records]
    assert not [*unused(trainer.config, ["teacher"], played)]


@pytest.mark.parametrize(("steps", "told"), [(20, 1), (21, 0)])
def test_a_warm_up_that_no_step_outlives_is_told(steps: int, told: int) -> None:
    config = cases.tiny("method=gad", steps=steps)
    said = [*unused(config, ["discriminator"], [])]
    assert len(said) == told
    assert all(one.startswith("teachers.discriminator.warm_up=20: it gives no rewards before") for one in said)
