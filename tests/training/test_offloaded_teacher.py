"""Runs whose teacher's weights wait in the host's memory."""

from pathlib import Path

import pytest
import training_cases as cases

from agentopd.errors import ConfigError
from agentopd.offloading import waiting
from agentopd.training.run import whole
from agentopd.training.run.whole import train

OFFLOAD = "teachers.teacher.offload=true"


def test_a_run_learns_the_same_from_it(tmp_path: Path) -> None:
    found = train(cases.tiny(OFFLOAD), tmp_path / "waiting")
    plain = train(cases.tiny(), tmp_path / "whole")
    assert cases.same_weights(cases.saved(tmp_path / "waiting"), cases.saved(tmp_path / "whole"))
    assert cases.metrics(tmp_path / "waiting") == cases.metrics(tmp_path / "whole")
    assert found.panels["teacher"].success_B.tolist() == plain.panels["teacher"].success_B.tolist()  # which it plays


def test_the_trainer_puts_what_it_is_given_there(tmp_path: Path) -> None:
    given = cases.model(1)
    trainer = cases.trainer(cases.tiny(OFFLOAD), tmp_path, teacher_model=given)
    assert trainer.river.teachers["teacher"].model is given
    assert waiting(given)
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["teachers.teacher={kind: local, model: org/name, quantization: nf4, offload: true}"],
            r"^teachers\.teacher\.offload=True: weights in four bits \(quantization=nf4\) stay on the device; leave",
        ),
        (
            ["teachers.teacher={kind: privileged, hint: 'Steps: {facts}', offload: true}", "stages.teacher=null"],
            r"^teachers\.teacher\.offload=True: ",
        ),
        (
            [OFFLOAD, "rollout.mode=async", "objective.sampler.actors={teacher: 0.5, student: 0.5}"],
            r"'teacher' is to act, and is read meanwhile .*leave teachers\.teacher\.offload out, or set rollout\.mode: sync",
        ),
    ],
)
def test_what_cannot_be_had_with_it_is_told_first(
    overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "build_trainer", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigError, match=message):
        train(cases.tiny(*overrides), tmp_path / "run")
