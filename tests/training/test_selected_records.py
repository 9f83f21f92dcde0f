"""What terms select of records is looked at before a run; and episodes of two runs in folders of one name stay two."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import training_cases as cases

from agentopd import records
from agentopd.config import Config
from agentopd.errors import ConfigError
from agentopd.records import RecordWriter, thin
from agentopd.teachers.recorded import RecordedTeacher
from agentopd.training.checks.looking import look
from agentopd.training.checks.recorded import check_recorded
from agentopd.types import IMPORTED, Annotation, Key, Record, Trajectory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of the student, none a success."""
    folder = tmp_path_factory.mktemp("selected") / "run"
    river = cases.trainer(cases.tiny(tasks_per_step=3), folder).river
    drawn = [thin(record, "sampled", 1, river.teacher_heads, 1.0) for record in river.draw(0).records]
    RecordWriter(folder).write(0, drawn)
    return folder


def changed(source: Path, target: Path, change: Callable[[Trajectory], Trajectory]) -> Path:
    RecordWriter(target).write(0, [replace(one, trajectory=change(one.trajectory)) for one in records.open(source)])
    return target


def config(source: Path, *overrides: str) -> Config:
    return cases.tiny(
        f"objective.sampler={json.dumps({'kind': 'recorded', 'records': str(source)})}", *overrides, method="gkd"
    )


def check(made: Config) -> list[str]:
    return check_recorded(made, made.chat(cases.tokenizer()))


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (
            "{actor: [expert]}",
            r"objective\.where={'actor': \['expert'\]}: .*; in these 'student' acted: set where\.actor",
        ),
        ("{success: true}", r"objective\.where={'success': True}: it selects no token of the records of 'fresh'"),
        ("{min_turn: 90}", r"objective\.where={'min_turn': 90}: it selects no token of the records of 'fresh'"),
    ],
)
def test_a_term_that_selects_nothing_is_told_before_the_run(where: str, told: str, run: Path, tmp_path: Path) -> None:
    failures = changed(run, tmp_path, lambda one: replace(one, outcome=replace(one.outcome, success=False)))
    assert len(check(config(failures, "objective.where={actor: [student], success: false}"))) == 1
    with pytest.raises(ConfigError, match=f"^{told}"):
        check(config(failures, f"objective.where={where}"))


def test_one_of_several_terms_is_only_told(run: Path) -> None:
    idle = {"name": "idle", "divergence": "forward_kl", "where": {"actor": ["expert"]}}
    terms = [{"divergence": "forward_kl"}, idle]
    sources = {"old": {"kind": "recorded", "records": str(run)}}
    _, told = check(cases.tiny(method={"sources": sources, "terms": terms}))
    assert told.startswith("objective.terms.1.where={'actor': ['expert']}: it selects no token of the records of 'old'")


def test_imported_is_an_actor_of_episodes_from_elsewhere(run: Path, tmp_path: Path) -> None:
    imported = changed(run, tmp_path / "imported", lambda one: replace(one, actors=(IMPORTED,)))
    assert len(check(config(imported, "objective.where={actor: [imported]}"))) == 1
    with pytest.raises(ConfigError, match="there is no 'imported'"):
        cases.tiny("objective.where={actor: [imported]}", method="gkd")


def test_episodes_of_two_runs_of_one_name_are_two(run: Path, tmp_path: Path) -> None:
    def other(one: Trajectory) -> Trajectory:
        (segment,) = one.segments
        return replace(one, segments=(replace(segment, tokens_T=segment.tokens_T[::-1].copy()),))

    first = list(records.open(run))
    second = [replace(one, trajectory=other(one.trajectory), annotations=_surer(one)) for one in first]
    learned = [
        replace(one, trajectory=replace(one.trajectory, key=Key("both", 0, place), origin=one.trajectory.key))
        for place, one in enumerate([*first, *second, *first])
    ]
    RecordWriter(tmp_path / "both").write(0, learned)
    assert len(look(str(tmp_path / "both")).entries) == 2 * len(first)
    again = RecordedTeacher(name="teacher", corrects=False, said_by="teacher", records=records.open(tmp_path / "both"))
    both = [*first, *second]
    assert [(one,) for one in again.annotate([record.trajectory for record in both])] == [r.annotations for r in both]


def _surer(record: Record) -> tuple[Annotation, ...]:
    (said,) = record.annotations
    return (replace(said, taken_logprob_N=said.taken_logprob_N * np.float32(0.5)),)
