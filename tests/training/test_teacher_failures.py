"""A teacher that fails takes nothing with it: what was played is kept, and the run goes on from there."""

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import training_cases as cases
from serving_cases import serving
from test_interruption import room

from agentopd import records
from agentopd.config import Config, load_config
from agentopd.errors import TeacherError
from agentopd.records.files import listed
from agentopd.teachers import Stateless, Teacher, TeacherContext, Traits, rowless
from agentopd.training.loop.folder import RunFolder
from agentopd.training.run.whole import train
from agentopd.types import Annotation, Floats, Trajectory


@dataclass
class Trouble:
    """When the teacher below fails, and how."""

    annotating: int | None = None
    """At which call."""
    hearing: int | None = None
    how: Callable[[str], BaseException] = RuntimeError
    calls: dict[str, int] = field(default_factory=dict)

    def meet(self, what: str, at: int | None) -> None:
        self.calls[what] = self.calls.get(what, 0) + 1
        if self.calls[what] == at:
            raise self.how("boom")


TROUBLE = Trouble()


@pytest.fixture(autouse=True)
def no_trouble() -> None:
    globals()["TROUBLE"] = Trouble()


@Traits(corrects=False, distributes=False)
def shaky(context: TeacherContext) -> Teacher:
    """Rewards the length of the tokens, and fails when told to."""
    return Shaky(name=context.name)


class Shaky(Stateless):
    def begin(self, trajectory: Trajectory) -> None:
        TROUBLE.meet("hearing", TROUBLE.hearing)

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        TROUBLE.meet("annotating", TROUBLE.annotating)
        return [
            rowless(self.name, one, reward_S=rewards_of(one), skip_S=np.zeros(len(one.turns), np.bool_))
            for one in trajectories
        ]


def rewards_of(trajectory: Trajectory) -> Floats:
    return np.array([turn.stop - turn.start for turn in trajectory.turns], np.float32)


def config(**more: object) -> Config:
    raw = cases.raw(method="grpo", steps=3, save_every=1)
    raw["teachers"] = {"judge": {"kind": "test_teacher_failures:shaky"}}
    raw["objective"] = {"target": {"kind": "reward", "name": "judge"}, "sampler": {"per_task": 2}}
    return load_config(raw | more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(config(), run)
    return run


def assert_goes_on(run: Path, whole: Path) -> None:
    """Goes on, ends as if nothing had happened, and counts nothing twice."""
    globals()["TROUBLE"] = Trouble()
    train(config(), run, resume=True)
    assert cases.same_weights(cases.saved(run), cases.saved(whole))
    assert cases.metrics(run) == cases.metrics(whole)
    assert cases.kept(run) == cases.kept(whole)
    keys = [record.trajectory.key for record in records.open(run)]
    assert len(set(keys)) == len(keys) == 3 * 4


def aside(run: Path) -> list[str]:
    return [str(file) for file in listed(run / "records") if file.superseded and not file.signals]


@pytest.mark.parametrize(("what", "at", "played"), [("annotating", 2, 4), ("hearing", 6, 2)])
def test_invariant_10_what_was_played_is_kept_when_a_teacher_fails(
    what: str, at: int, played: int, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    setattr(TROUBLE, what, at)
    TROUBLE.how = TeacherError
    with pytest.raises(TeacherError) as told:
        train(config(), run)
    file = run / "records" / "step-000001.superseded-1.parquet"
    assert str(told.value) == (
        f"boom; the {played} episodes that were played in step 1 are kept, without annotations and not counted, in {file}; "
        f"to go on after step 1: agentopd train {run} --resume"
    )
    assert [r.trajectory.key.step for r in records.open(run)] == [0] * 4
    everything = {record.trajectory.key: record for record in records.open(run, superseded=True)}
    expected = {record.trajectory.key: record for record in cases.kept(whole)}
    assert len(everything) == 4 + played
    for key, record in everything.items():
        assert record.trajectory.segments == expected[key].trajectory.segments
        assert bool(record.annotations) == (key.step == 0)
    assert_goes_on(run, whole)
    assert aside(run) == [file.name]


def test_an_interrupt_keeps_them_too(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TROUBLE.annotating, TROUBLE.how = 3, KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        train(config(), tmp_path / "run")
    said = capsys.readouterr().err.splitlines()[-2:]
    assert said[0].startswith("the 4 episodes that were played in step 2 are kept")
    assert said[1].startswith("interrupted; to go on after step 2: agentopd train ")
    assert_goes_on(tmp_path / "run", whole)


def test_a_run_that_fails_again_and_again_keeps_them_once(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for again in range(3):
        globals()["TROUBLE"] = Trouble(annotating=1, how=TeacherError)
        with pytest.raises(TeacherError, match="to go on after step 0: agentopd train"):
            train(config(), run, resume=again > 0)
    assert aside(run) == ["step-000000.superseded-1.parquet"]
    assert_goes_on(run, whole)


def test_a_teacher_that_cannot_be_made_leaves_no_run_to_go_on_with(tmp_path: Path) -> None:
    with serving(cases.model(1), longest=1024) as server:
        server.away_after = 0
        teacher = f"teachers.teacher={{kind: served, url: '{server.url}', top_k: 8, patience: 0.1}}"
        with pytest.raises(TeacherError, match=r"raise patience$"):
            train(cases.tiny(teacher, "objective.support={kind: top_k, k: 8}"), tmp_path / "run")
    assert not RunFolder(tmp_path / "run").config.exists()


def test_a_run_that_keeps_no_records_keeps_none(tmp_path: Path) -> None:
    TROUBLE.annotating, TROUBLE.how = 1, TeacherError
    with pytest.raises(TeacherError, match=r"^boom; to go on"):
        train(config(records={"keep": False}), tmp_path / "run")
    assert not (tmp_path / "run" / "records").exists()


def test_no_room_for_them_hides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]

    def without_room(said: str) -> TeacherError:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return TeacherError(said)

    TROUBLE.annotating, TROUBLE.how = 1, without_room
    with room(limit), pytest.raises(TeacherError) as told:
        train(config(), tmp_path / "run")
    assert str(told.value).startswith("boom; to go on after step 0")
    assert "the 4 episodes that were played in step 0 could not be kept: cannot write" in capsys.readouterr().err
