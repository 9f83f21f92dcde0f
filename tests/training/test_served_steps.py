"""A run that a server teaches: what it learns, and what becomes of it when the server goes away."""

from pathlib import Path

import pytest
import torch
import training_cases as cases
from serving_cases import serving

from agentopd.errors import TeacherError
from agentopd.training.loop.arguments import arguments
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.whole import train


def taught_by(url: str, output: Path, *overrides: str) -> AgentOPDTrainer:
    teacher = f"teachers.teacher={{kind: served, url: '{url}', top_k: -1, patience: 1.0}}"
    config = cases.tiny(teacher, *overrides)
    return AgentOPDTrainer(cases.model(0), arguments(config, output), cases.tokenizer())


def test_it_learns_what_a_local_teacher_teaches(tmp_path: Path) -> None:
    here = cases.trainer(cases.tiny("rollout.temperature=0.7"), tmp_path / "here")
    here.train()
    with serving(cases.model(1), longest=1024) as server:
        there = taught_by(server.url, tmp_path / "there", "rollout.temperature=0.7")
        there.train()
    for name in ("train/loss/divergence", "train/teacher_entropy/teacher", "depth/loss/divergence/1"):
        assert there.step_metrics[name] == pytest.approx(here.step_metrics[name], rel=1e-4)
    for name, value in cases.weights(here.student).items():
        torch.testing.assert_close(cases.weights(there.student)[name], value, rtol=0, atol=2e-4)


@pytest.mark.parametrize("of", ["student", "union"])
@pytest.mark.parametrize("lora", [(), ("train.lora={r: 2, lora_alpha: 8}",)])
def test_of_the_students_likeliest_tokens_too(tmp_path: Path, of: str, lora: tuple[str, ...]) -> None:
    some = (f"objective.support={{kind: top_k, k: 8, of: {of}}}", "objective.divergence=reverse_kl", *lora)
    here = cases.trainer(cases.tiny(*some), tmp_path / "here")
    here.train()
    with serving(cases.model(1), longest=1024) as server:
        teacher = f"teachers.teacher={{kind: served, url: '{server.url}', top_k: 8, ids: {of}, patience: 1.0}}"
        config = cases.tiny(teacher, *some)
        there = AgentOPDTrainer(cases.model(0), arguments(config, tmp_path / "there"), cases.tokenizer())
        there.train()
    for name in ("train/loss/divergence", "depth/loss/divergence/1"):
        assert there.step_metrics[name] == pytest.approx(here.step_metrics[name], rel=1e-3)
    for name, value in cases.weights(here.student).items():
        torch.testing.assert_close(cases.weights(there.student)[name], value, rtol=0, atol=1e-3)


def test_a_run_is_not_resumed_beside_another_model(tmp_path: Path) -> None:
    with serving(cases.model(1), longest=1024) as server:
        one = taught_by(server.url, tmp_path / "run", "train.save_every=1")
        one.train()
        server.model = cases.model(2)
        with pytest.raises(TeacherError, match=rf"^teacher 'teacher': {server.url} is another model than before"):
            taught_by(server.url, tmp_path / "again", "train.save_every=1").train(
                resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1")
            )


def test_a_server_that_goes_away_stops_the_run_which_goes_on_when_it_is_back(tmp_path: Path) -> None:
    with serving(cases.model(1), longest=1024) as server:
        teacher = f"teachers.teacher={{kind: served, url: '{server.url}', top_k: 8, patience: 0.3}}"
        config = cases.tiny(teacher, "objective.support={kind: top_k, k: 8}", save_every=1)
        train(config, tmp_path / "whole" / "run")
        steps, own = 2, len(server.asked) - len(server.questions)  # own: who it is, and after each step once more
        server.away_after = (
            len(server.asked) + own - 1 + len(server.questions) // steps + 1
        )  # of the second step one episode
        with pytest.raises(TeacherError, match=rf"teacher 'teacher': {server.url}/v1/completions answered 503"):
            train(config, tmp_path / "cut" / "run")
        assert len(list((tmp_path / "cut" / "run" / "checkpoints").glob("checkpoint-*"))) == 1
        server.away_after = None
        patient = "teachers.teacher.patience=5.0", "teachers.teacher.in_flight=2", "teachers.teacher.timeout=60"
        config = cases.tiny(teacher, "objective.support={kind: top_k, k: 8}", *patient, save_every=1)
        train(config, tmp_path / "cut" / "run", resume=True)
    assert cases.same_weights(cases.saved(tmp_path / "cut" / "run"), cases.saved(tmp_path / "whole" / "run"))
    assert cases.kept(tmp_path / "cut" / "run") == cases.kept(tmp_path / "whole" / "run")
