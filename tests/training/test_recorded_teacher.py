"""A recorded teacher: what another said of the same episodes, read instead of asked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_cases as cases

from agentopd import records
from agentopd.__main__ import main
from agentopd.config import Config
from agentopd.env import text as environments
from agentopd.errors import ConfigError, TeacherError
from agentopd.records import RecordWriter
from agentopd.rollout import TransformersPolicy
from agentopd.training.checks.recorded import check_recorded
from agentopd.training.run.whole import train
from agentopd.types import Sampled, Sparse


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes, with the sampled word of the run's teacher."""
    folder = tmp_path_factory.mktemp("taught") / "run"
    train(cases.tiny(steps=2, tasks_per_step=3), folder)
    return folder


@pytest.fixture(scope="module")
def taught(run: Path) -> Path:
    """The same, with eight likeliest tokens of the run's teacher."""
    folder = run.with_name("taught")
    cache = str(run.with_name("cache"))
    given = ["--output", str(folder), "--cache", cache, "--k", "8"]
    assert main(["annotate", str(run), *given, "--teacher", "teacher"]) == 0
    return folder


def config(source: Path, *overrides: str, method: str = "thinking-machines", **teacher: Any) -> Config:
    sampler = f"objective.sampler={json.dumps({'kind': 'recorded', 'records': str(source)})}"
    kind = f"teachers.teacher={json.dumps({'kind': 'recorded', **teacher})}"
    return cases.tiny(sampler, kind, *overrides, method=method)


LIGHTNING = "lightning-opd"


def check(made: Config) -> list[str]:
    return check_recorded(made, made.chat(cases.tokenizer()))


@pytest.mark.parametrize(
    ("method", "overrides"),
    [(LIGHTNING, []), ("gkd", ["objective.support={kind: top_k, k: 8}"])],
)
def test_a_student_learns_from_a_recorded_word_what_it_learns_from_the_teacher(
    method: str, overrides: list[str], run: Path, taught: Path, tmp_path: Path
) -> None:
    learned = []
    for kind in ("recorded", "local"):
        made = config(taught, *overrides, method=method)
        if kind == "local":  # the very teacher that spoke, asked now
            asked = cases.tiny().teachers["teacher"]
            made = made.model_copy(update={"teachers": {**made.teachers, "teacher": asked}})
        train(made, tmp_path / kind)
        learned.append(cases.saved(tmp_path / kind))
    begun = cases.saved(run)
    assert learned[0].keys() == learned[1].keys() == begun.keys()
    for name, value in learned[0].items():
        np.testing.assert_allclose(value, learned[1][name], atol=2e-5)
    assert not cases.same_weights(learned[0], begun)


def test_steps_need_no_rollout_and_no_environment(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("nothing is to be played")

    trainer = cases.trainer(config(taught, method=LIGHTNING), tmp_path, load=never)
    monkeypatch.setattr(TransformersPolicy, "act", never)
    monkeypatch.setattr(environments.TextEnv, "reset", never)
    before = cases.weights(trainer.student)
    trainer.train()
    assert not cases.same_weights(before, cases.weights(trainer.student))
    assert trainer.river.teachers["teacher"].model is None


def test_it_says_what_was_recorded_under_its_own_name(run: Path, taught: Path, tmp_path: Path) -> None:
    kept = {r.trajectory.key: r.annotations[0] for r in records.open(taught)}
    old = json.dumps({"kind": "recorded", "records": str(taught), "teacher": "teacher"})
    made = cases.tiny(
        f"objective.sampler={json.dumps({'kind': 'recorded', 'records': str(run)})}",
        f"teachers.old={old}", "objective.target.name=old", method=LIGHTNING,
    )  # fmt: skip
    for record in cases.trainer(made, tmp_path).river.draw(0).records:
        [said] = record.annotations
        assert record.trajectory.origin is not None
        assert said == replace(kept[record.trajectory.origin], teacher="old")
        assert isinstance(said.block, Sparse)


def test_an_episode_of_other_tokens_is_refused(run: Path, taught: Path, tmp_path: Path) -> None:
    writer, opened = RecordWriter(tmp_path / "other"), records.open(taught)
    for step in opened.steps:
        changed = []
        for record in opened.step(step):
            (segment,) = record.trajectory.segments
            tokens_T = segment.tokens_T.copy()
            tokens_T[-1] += 1
            one = replace(record.trajectory, segments=(replace(segment, tokens_T=tokens_T),))
            changed.append(replace(record, trajectory=one))
        writer.write(step, changed)
    river = cases.trainer(config(run, method=LIGHTNING, records=str(tmp_path / "other")), tmp_path).river
    with pytest.raises(TeacherError, match=r"teacher 'teacher': .* holds an episode run/\d/\d/0 of other tokens than"):
        river.draw(0)


def test_what_is_missing_is_found_first_with_the_command_that_makes_it(run: Path, taught: Path, tmp_path: Path) -> None:
    assert check(config(taught, method=LIGHTNING))
    said = (
        rf"^teachers\.teacher: .* holds no word of 'judge' on 6 of the 6 episodes of the source 'fresh', such as run/0/0/0 \(teacher "
        rf"spoke\); let it be asked once: agentopd annotate {run} --teacher teachers\.judge\.kind=\.\.\. --output FOLDER, and set"
    )
    with pytest.raises(ConfigError, match=said):
        check(config(run, method=LIGHTNING, teacher="judge"))
    half = RecordWriter(tmp_path / "half")
    half.write(0, list(records.open(taught).step(0)))
    with pytest.raises(ConfigError, match="on 3 of the 6 episodes"):
        check(config(run, method=LIGHTNING, records=str(tmp_path / "half")))


@pytest.mark.parametrize(
    ("sampled", "overrides", "said"),
    [
        (
            True,
            ["method=gkd"],
            r"^objective\.estimator: it reads distributions, and of those of teachers\.teacher the taken",
        ),
        (
            False,
            ["method=gkd"],
            r"^objective\.support\.kind=full: .* the 8 likeliest tokens were kept; set objective\.support: ",
        ),
        (
            False,
            ["method=gkd", "objective.support={kind: top_k, k: 9}"],
            r"support\.k: .* 8 likeliest tokens were kept; lower it; ann",
        ),
        (
            False,
            ["method=gkd", "objective.support={kind: top_k, k: 8}", "rollout.temperature=0.7"],
            r"is at the temperature 1, and this run compares at 0\.7; set rollout\.temp",
        ),
    ],
)
def test_a_word_that_says_too_little(sampled: bool, overrides: list[str], said: str, run: Path, taught: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        check(config(run if sampled else taught, *overrides))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (
            "{sampler: {}}",
            r"^objective\.target\.name=teacher: what this teacher says was recorded, and the term learns from fresh, whose",
        ),
        (
            "{sources: {a: {kind: recorded, records: r}, b: {}}}",
            r"the term learns from b, whose episodes are not; select sources of kind recorded .* by objective\.where\.source",
        ),
    ],
)
def test_what_is_played_now_has_no_recorded_word(method: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cases.tiny(f"method={method}", "teachers.teacher={kind: recorded, records: r}")
    cases.tiny(
        "method={sources: {a: {kind: recorded, records: r}, b: {}}, where: {source: a}}",
        "teachers.teacher={kind: recorded, records: r}",
    )


def test_the_run_itself_has_kept_what_its_teacher_said(run: Path, tmp_path: Path) -> None:
    made = config(run, method=LIGHTNING)
    assert check(made)
    drawn = cases.trainer(made, tmp_path).river.draw(0).records
    assert all(isinstance(record.annotations[0].block, Sampled) for record in drawn)
