"""`agentopd annotate` and `agentopd doctor` with teachers of every kind: paid ones, those with tokens of their own, classifiers."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from foreign_cases import GLM, foreign
from model_cases import save_small
from talking_cases import said, talking
from transformers import LlamaForSequenceClassification, PreTrainedModel

from agentopd import offloading, records
from agentopd.__main__ import main
from agentopd.config import Config, load_config
from agentopd.doctor import Check, examine
from agentopd.models import NewModel, new_model
from agentopd.records import RecordWriter
from agentopd.serving.answers import ANSWERS
from agentopd.serving.ledger import SPENDING
from agentopd.training.annotating.question import with_teachers
from agentopd.training.run.whole import train
from agentopd.types import Span

TINY = NewModel(**{**cases.TINY, "max_positions": 4096})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "run"
    train(cases.tiny("objective.sampler.per_task=2", tasks_per_step=1), folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of another family, with its tokenizer."""
    place = tmp_path_factory.mktemp("foreign")
    new_model(TINY, foreign(GLM), 3).save_pretrained(place)
    foreign(GLM).save_pretrained(place)
    return str(place)


def told(capsys: pytest.CaptureFixture[str], run: Path, output: Path, **teacher: Any) -> dict[str, Any]:
    """What is said of a teacher called ``judge`` that was asked about the run."""
    capsys.readouterr()
    argv = ["annotate", str(run), "--output", str(output), "--cache", str(output.parent / "cache"), "--teacher"]
    assert main([*argv, f"teachers.judge={json.dumps(teacher)}"]) == 0
    return dict(json.loads(capsys.readouterr().out)["teachers"]["judge"])


def test_a_paid_answer_is_paid_once_whatever_the_output(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with talking(lambda asked: said(str(len(asked["messages"][0]["content"]) % 10))) as server:
        judge = {"kind": "openai", "url": server.base, "ask": "score", "of": "episode"}
        first = told(capsys, run, tmp_path / "one", **judge)
        paid = len(server.asked)
        assert paid == 4
        assert "4 requests" in first["spent"]
        told(capsys, run, tmp_path / "two", **judge)
        assert len(server.asked) == paid
    assert (tmp_path / "one" / SPENDING).exists()
    assert (tmp_path / "cache" / ANSWERS).exists()
    pairs = zip(records.open(tmp_path / "one"), records.open(tmp_path / "two"), strict=True)
    assert all(a == b for a, b in pairs)


def test_a_teacher_whose_weights_wait_says_the_same(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited, real = [], offloading.offloaded

    def counting(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
        waited.append(model)
        return real(model, device)

    monkeypatch.setattr(offloading, "offloaded", counting)
    own = {"kind": "local", "model": str(run / "student")}
    told(capsys, run, tmp_path / "waits", **own, offload=True)
    assert len(waited) == 1
    assert told(capsys, run, tmp_path / "whole", **own)["asked_anew"] == 0
    assert len(waited) == 1


def test_a_cap_ends_it_and_a_higher_one_goes_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with talking(lambda asked: said("7")) as server:
        judge = {"kind": "openai", "url": server.base, "ask": "score", "of": "episode", "cap": {"requests": 3}}
        argv = ["annotate", str(run), "--output", str(tmp_path / "out"), "--cache", str(tmp_path), "--teacher"]
        assert main([*argv, f"teachers.judge={json.dumps(judge)}"]) == 2
        assert "what was said so far is kept" in capsys.readouterr().err
        judge["cap"] = {"requests": 9}
        assert main([*argv, f"teachers.judge={json.dumps(judge)}"]) == 0
        assert len(server.asked) == 4


def test_a_group_that_is_refused_is_skipped_and_the_rest_goes_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with talking(lambda asked: said("7")) as server:
        judge = {"kind": "openai", "url": server.base, "ask": "score", "of": "episode", "in_flight": 1}
        server.faults += [400, 400]  # both episodes of the first step
        found = told(capsys, run, tmp_path / "out", **judge)
    assert found["episodes_skipped"] == 2
    skips = [one.annotations[-1].skip_S.all() for one in records.open(tmp_path / "out")]
    assert skips == [True, True, False, False]


def test_an_ensemble_by_its_name_comes_with_its_members(run: Path) -> None:
    own = {"kind": "local", "model": str(run / "student")}
    teachers = {"a": own, "b": own | {"dtype": "float64"}, "both": {"kind": "ensemble", "members": ["a", "b"]}}
    config = load_config(run / "config.yaml", [f"teachers.{name}={json.dumps(one)}" for name, one in teachers.items()])
    assert list(with_teachers(config, ["both"]).teachers) == ["a", "b", "both"]


def test_one_with_tokens_of_its_own(run: Path, other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = {"kind": "cross_tokenizer", "model": other}
    assert told(capsys, run, tmp_path / "one", **judge)["asked_anew"] == 4
    assert told(capsys, run, tmp_path / "two", **judge)["asked_anew"] == 0
    assert told(capsys, run, tmp_path / "ends", **judge, end_of_turn=False)["asked_anew"] == 4
    for one, two in zip(records.open(tmp_path / "one"), records.open(tmp_path / "two"), strict=True):
        assert one == two
        assert isinstance(one.annotations[-1].block, Span)


def test_a_classifier(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_small(LlamaForSequenceClassification, cases.tokenizer(), tmp_path / "model")
    judge = {"kind": "reward_model", "model": str(tmp_path / "model")}
    assert told(capsys, run, tmp_path / "one", **judge)["asked_anew"] == 4
    assert told(capsys, run, tmp_path / "two", **judge)["asked_anew"] == 0
    assert told(capsys, run, tmp_path / "scaled", **judge, scale=2.0)["asked_anew"] == 4
    for name in ("grouped", "grouped again"):  # what it says of one depends on others
        assert told(capsys, run, tmp_path / name, **judge, normalised="group")["asked_anew"] == 4


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ("{kind: discriminator}", "teachers.judge.kind=discriminator: it learns beside a student in training"),
        ("{kind: self, average: 0.5}", "teachers.judge.average: it follows a student in training"),
        ("{kind: self, interpolate: 0.5}", "teachers.judge.interpolate: it follows a student in training"),
    ],
)
def test_one_that_learns_beside_a_student_is_refused(
    judge: str, said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["annotate", str(run), "--output", str(tmp_path / "out"), "--teacher", f"teachers.judge={judge}"]
    assert main(argv) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ("{kind: reward, normalised: group}", "teachers.judge.normalised=group: rewards are compared"),
        (
            "{kind: openai, url: 'http://127.0.0.1:9', ask: preference}",
            "teachers.judge.ask=preference: actions of several",
        ),
        ("{kind: self, hint: '{sibling}'}", "teachers.judge.hint: {sibling} is another episode"),
    ],
)
def test_one_that_compares_episodes_of_a_task_needs_two_in_a_step(
    judge: str, said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = [replace(record, annotations=()) for record in records.open(run)][:1]
    RecordWriter(tmp_path / "alone" / "records").write(0, alone)
    argv = ["annotate", str(tmp_path / "alone"), "--config", str(run), "--output", str(tmp_path / "out")]
    assert main([*argv, "--teacher", f"teachers.judge={judge}"]) == 2
    assert f"{said}" in (err := capsys.readouterr().err)
    assert "and no step here has two; choose records of a run with per_task: 2 or more" in err


@pytest.mark.parametrize("method", ["gold", "uld"])
def test_the_doctor_looks_at_one_with_tokens_of_its_own(method: str, other: str) -> None:
    checks, _ = examine(cases.tiny(f"teachers.teacher={{kind: cross_tokenizer, model: '{other}'}}", method=method))
    assert {check.name: check.status for check in checks if check.status not in ("pass", "skip")} == {}
    assert any(check.name == "same answer twice" and check.status == "pass" for check in checks)
    assert any("a tokenizer of its own" in check.found for check in checks if check.name == "tokenizers")


@pytest.mark.parametrize(("scores", "status"), [("77", "pass"), ("73", "warn")])
def test_the_doctor_asks_a_paid_teacher_twice(scores: str, status: str) -> None:
    with talking(lambda _: said(scores[len(server.asked) - 1])) as server:
        judge = {"kind": "openai", "url": server.base, "ask": "score", "of": "episode"}
        method = {"sampler": {"per_task": 2}, "target": {"kind": "reward", "name": "judge"}, "support": "sampled",
                  "estimator": {"kind": "score_function", "baseline": "group_normalised"}}  # fmt: skip
        checks, _ = examine(cases.tiny(f"teachers.judge={json.dumps(judge)}", method=method))
        found = {check.name: check.status for check in checks if check.status not in ("pass", "skip")}
        assert found == ({} if status == "pass" else {"same answer twice": status})
        assert server.asked[0] == server.asked[1]
        assert len(server.asked) == 2


def judged(**judge: Any) -> Config:
    """A run that a judge rewards, by tasks of two episodes."""
    method = {
        "sampler": {"per_task": 2},
        "target": {"kind": "reward", "name": "judge"},
        "support": "sampled",
        "estimator": {"kind": "score_function"},
    }
    return cases.tiny(f"teachers.judge={json.dumps(judge)}", method=method)


def twice(config: Config) -> Check:
    """What the doctor finds of the answers of its one teacher."""
    [check] = [check for check in examine(config)[0] if check.name == "same answer twice"]
    return check


def test_the_doctor_compares_what_a_judge_said_before_it_is_put_beside_its_group() -> None:
    """Within a group that agrees all of them are 0, whatever was said."""
    heard: Counter[str] = Counter()

    def moody(asked: dict[str, Any]) -> dict[str, Any]:
        question = json.dumps(asked["messages"])
        heard[question] += 1
        return said("7" if heard[question] == 1 else "3")

    with talking(moody) as server:
        found = twice(judged(kind="openai", url=server.base, ask="score", of="episode", normalised="group"))
    assert set(heard.values()) == {2}
    assert (found.status, found.remedy) == (
        "warn",
        "set teachers.judge.options.temperature: 0 where its model takes that",
    )


def test_the_doctor_lets_two_episodes_of_a_task_be_compared() -> None:
    with talking(lambda _: said("A")) as server:
        assert twice(judged(kind="openai", url=server.base, ask="preference")).status == "pass"
        assert server.asked


def test_the_doctor_says_why_a_teacher_said_nothing() -> None:
    assert twice(cases.tiny(method="gad")).found.endswith("it gives no rewards through its warm_up=20")
    with talking(lambda _: said("Well done")) as server:
        found = twice(judged(kind="openai", url=server.base, ask="score"))
    assert found.status == "warn"
    assert found.found.endswith(": no answer of its server's could be used")
