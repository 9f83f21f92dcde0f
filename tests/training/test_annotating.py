"""`agentopd annotate`: records with what teachers say of them, none of whom is asked twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_cases as cases
import yaml
from serving_cases import Served, serving

from agentopd import records
from agentopd.__main__ import main
from agentopd.config import load_config
from agentopd.records.store import Store
from agentopd.teachers import Identity, Stateless, Teacher, TeacherContext, Traits, rowless
from agentopd.training.annotating.asking import together
from agentopd.training.annotating.signals import merged, renumbered
from agentopd.training.annotating.whole import STORE
from agentopd.training.run.whole import train
from agentopd.types import Annotation, Key, Outcome, Record, Sampled, Segment, Sparse, Task, Trajectory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotating") / "run"
    train(cases.tiny(), folder)
    return folder


@pytest.fixture
def server() -> Iterator[Served]:
    with serving(cases.model(1), longest=1024) as one:
        yield one


def annotate(source: Path, output: Path, *given: str) -> None:
    assert (
        main(["annotate", str(source), "--output", str(output), "--cache", str(output.parent / "cache"), *given]) == 0
    )


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(["annotate", *argv]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def served(server: Served, **settings: Any) -> str:
    return f"teachers.big={json.dumps({'kind': 'served', 'url': server.url, 'top_k': 8, 'patience': 0.3} | settings)}"


def test_a_teacher_is_added_and_nothing_else_changes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(run, tmp_path / "out", "--teacher", "teachers.judge.kind=reward", "teachers.judge.scale=2.0")
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "records": str(tmp_path / "out"), "episodes": 4, "steps": 2, "teachers": {"judge": {"asked_anew": 4, "turns_taught": 1.0}},
    }  # fmt: skip
    was, now = records.open(run), records.open(tmp_path / "out")
    for old, new in zip(was, now, strict=True):
        assert new.trajectory == old.trajectory
        assert new.annotations[:-1] == old.annotations
        judged = new.annotations[-1]
        assert judged.teacher == "judge"
        assert judged.reward_S.tolist() == [2.0 * turn.reward for turn in old.trajectory.turns]
    assert now.signal_steps == was.signal_steps == (0, 1)
    for step in was.signal_steps:
        for name, column in was.signals(step).items():
            np.testing.assert_array_equal(now.signals(step)[name], column)


def test_the_runs_own_teacher_says_more_and_a_second_call_asks_nobody(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(run, tmp_path / "out", "--teacher", "teacher", "--k", "5")
    for old, new in zip(records.open(run), records.open(tmp_path / "out"), strict=True):
        [before], [after] = old.annotations, new.annotations
        assert isinstance(before.block, Sampled)
        assert isinstance(after.block, Sparse)
        assert after.block.ids_N_K.shape == (len(before.segment_N), 5)
        np.testing.assert_allclose(after.taken_logprob_N, before.taken_logprob_N, atol=1e-5)
    capsys.readouterr()
    annotate(run, tmp_path / "again", "--teacher", "teacher", "--k", "5")
    assert json.loads(capsys.readouterr().out)["teachers"]["teacher"]["asked_anew"] == 0
    assert list(records.open(tmp_path / "again")) == list(records.open(tmp_path / "out"))
    for more in (["--k", "6"], ["--block", "sampled"], ["rollout.temperature=0.5"]):
        annotate(run, tmp_path / f"other{more[-1]}", "--teacher", "teacher", *["--k", "5", *more])
        assert json.loads(capsys.readouterr().out)["teachers"]["teacher"]["asked_anew"] == 4


def scored(server: Served) -> int:
    """Requests that are no question of who the server is."""
    return len(server.questions)


def test_nothing_is_paid_for_twice(run: Path, server: Served, tmp_path: Path) -> None:
    annotate(run, tmp_path / "one", "--teacher", served(server))
    assert scored(server) == 4
    annotate(run, tmp_path / "two", "--teacher", served(server).replace("big", "other"))
    assert scored(server) == 4
    pairs = zip(records.open(tmp_path / "one"), records.open(tmp_path / "two"), strict=True)
    assert all(replace(b.annotations[-1], teacher="big") == a.annotations[-1] for a, b in pairs)
    annotate(run, tmp_path / "deeper", "--teacher", served(server, where={"min_turn": 1}))
    assert scored(server) > 4
    before, server.model = scored(server), cases.model(2)
    annotate(run, tmp_path / "three", "--teacher", served(server))
    assert scored(server) == before + 4


def with_token_changed(run: Path, folder: Path) -> Path:
    """The run, with another last token in its first episode."""
    shutil.copy(run / "config.yaml", folder)
    shutil.copytree(run / "student", folder / "student")
    first, *rest = records.open(run).step(0)
    segment = first.trajectory.segments[0]
    tokens_T = segment.tokens_T.copy()
    tokens_T[-1] = (tokens_T[-1] + 1) % 300
    changed = replace(first.trajectory, segments=(replace(segment, tokens_T=tokens_T), *first.trajectory.segments[1:]))
    records.RecordWriter(folder).write(0, [replace(first, trajectory=changed), *rest])
    return folder


def test_a_token_that_differs_is_asked_about(run: Path, server: Served, tmp_path: Path) -> None:
    annotate(run, tmp_path / "one", "--teacher", served(server))
    (tmp_path / "other").mkdir()
    before = scored(server)
    annotate(with_token_changed(run, tmp_path / "other"), tmp_path / "two", "--teacher", served(server))
    assert scored(server) == before + 1


def test_a_server_that_goes_away_ends_it_and_the_same_command_goes_on(
    run: Path, server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(run, tmp_path / "whole" / "out", "--teacher", served(server))
    argv = [
        str(run),
        "--output",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "cache"),
        "--teacher",
        served(server),
    ]
    # before and as it is made it says twice who it is; of the two episodes of the first step more, and then once more who it is
    server.away_after = len(server.asked) + 4 + 2 + 1
    line = fails(capsys, *argv)
    assert "answered 503" in line
    assert line.endswith("what was said so far is kept, and the same command goes on with the rest")
    assert records.open(tmp_path / "out").steps == (0,)
    server.away_after = None
    assert main(["annotate", *argv]) == 0
    # not by the server's count: a thread of the call that ended may still try
    assert json.loads(capsys.readouterr().out)["teachers"]["big"]["asked_anew"] == 2
    assert list(records.open(tmp_path / "out")) == list(records.open(tmp_path / "whole" / "out"))
    assert records.open(tmp_path / "out").signal_steps == (0, 1)
    assert main(["annotate", *argv]) == 0
    assert json.loads(capsys.readouterr().out)["teachers"]["big"]["asked_anew"] == 0


@Traits(corrects=False, distributes=False)
def interrupted(context: TeacherContext) -> Teacher:
    """Is left by whoever waits for it."""
    return Interrupted(name=context.name)


class Interrupted(Stateless):
    def annotate(self, trajectories: Any) -> list[Annotation]:
        raise KeyboardInterrupt


def test_an_interrupt_says_how_to_go_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["annotate", str(run), "--output", str(tmp_path / "out"), "--cache", str(tmp_path), "--teacher"]
    assert main([*argv, "teachers.own.kind=test_annotating:interrupted"]) == 130
    assert "interrupted; the same command goes on where this ended" in capsys.readouterr().err


@Traits(corrects=False, distributes=False)
def counted(context: TeacherContext, *, file: str, kill_at: int = 0, is_named: bool = True) -> Teacher:
    """Writes down whom it was asked about, and dies at one of its calls."""
    return Counted(name=context.name, file=Path(file), kill_at=kill_at, is_named=is_named)


@dataclass(frozen=True, eq=False, kw_only=True)
class Counted(Stateless):
    file: Path
    kill_at: int
    is_named: bool

    @property
    def identity(self) -> Identity:
        return Identity("counted") if self.is_named else "counted"  # type: ignore[return-value]

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        calls = self.file.read_text().count(";") if self.file.exists() else 0
        if calls + 1 == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with self.file.open("a") as file:
            file.write(" ".join(str(one.key) for one in trajectories) + ";")
        return [rowless(self.name, one, skip_S=np.zeros(len(one.turns), np.bool_)) for one in trajectories]


def test_invariant_10_what_was_said_before_a_kill_is_not_asked_again(run: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    argv = ["annotate", str(run), "--output", str(tmp_path / "out"), "--cache", str(tmp_path), "--teacher"]
    own = f"teachers.own={{kind: 'test_annotating:counted', file: {asked}, kill_at: 2}}"
    # a test's own module is found from its folder
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from agentopd.__main__ import main; sys.exit(main(sys.argv[1:]))"
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    paths = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", code, folders[0], *argv, own]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert records.open(tmp_path / "out").steps == (0,)
    asked.write_text(asked.read_text() + ";")  # past the call at which it dies
    assert main([*argv, own]) == 0
    names = asked.read_text().replace(";", " ").split()
    assert len(names) == len(set(names)) == len(records.open(tmp_path / "out")) == 4


def test_an_identity_that_is_none_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = f"teachers.own={{kind: 'test_annotating:counted', file: {tmp_path / 'asked'}, is_named: false}}"
    line = fails(capsys, str(run), "--output", str(tmp_path / "out"), "--cache", str(tmp_path), "--teacher", own)
    assert "teachers.own: its identity is a str; return agentopd.teachers.Identity or None" in line


def test_an_expert_without_advice_says_why(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(run), "--output", str(tmp_path / "out"), "--cache", str(tmp_path), "--teacher", "expert"]
    assert "teacher 'expert': the records hold no advice of the environments' experts" in fails(capsys, *argv)
    train(cases.tiny(method="dagger"), tmp_path / "advised")
    annotate(tmp_path / "advised", tmp_path / "again", "--teacher", "expert")
    for was, now in zip(records.open(tmp_path / "advised"), records.open(tmp_path / "again"), strict=True):
        assert was == now
    assert records.open(tmp_path / "again").signals(0).keys() == records.open(tmp_path / "advised").signals(0).keys()


def test_some_steps_and_then_others(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = ["--teacher", "teachers.judge.kind=reward"]
    annotate(run, tmp_path / "out", *judge, "--step", "1")
    assert records.open(tmp_path / "out").steps == (1,)
    annotate(run, tmp_path / "out", *judge, "--step", "0-1")
    assert records.open(tmp_path / "out").steps == (0, 1)
    argv = [str(run), "--output", str(tmp_path / "x"), *judge]
    assert "--step 3-1: give a step" in fails(capsys, *argv, "--step", "3-1")
    assert "has no records of these steps; those that have some: 0 to 1" in fails(capsys, *argv, "--step", "7")
    assert not (tmp_path / "x").exists()


def test_an_output_that_holds_something_else_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(run, tmp_path / "out", "--teacher", "teachers.judge.kind=reward")
    argv = [str(run), "--output", str(tmp_path / "out"), "--teacher", "teachers.judge={kind: reward, scale: 3.0}"]
    line = fails(capsys, *argv)
    assert "were annotated with config.teachers.judge.scale=1.0, and this asks for 3.0" in line
    assert "already holds a run or other files; choose" in fails(
        capsys, str(run), "--output", str(run), "--teacher", "teacher"
    )


def test_files_hold_one_teacher_or_several(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, several, neither = (tmp_path / f"{name}.yaml" for name in ("one", "several", "neither"))
    one.write_text("kind: reward")
    several.write_text(yaml.safe_dump({"teachers": {"a": {"kind": "reward"}, "b": {"kind": "reward", "scale": 2.0}}}))
    neither.write_text("a: 1")
    annotate(run, tmp_path / "out", "--teacher", str(one), str(several), "teachers.b.scale=3.0")
    assert list(json.loads(capsys.readouterr().out)["teachers"]) == ["teacher", "a", "b"]
    first = next(iter(records.open(tmp_path / "out")))
    assert [a.teacher for a in first.annotations] == ["teacher", "a", "b"]
    for given, said in (
        (str(neither), "the file holds no teachers"),
        ("teachr", "there is no such file (did you mean 'teacher'?)"),
        ("train.steps=3", "this names no teacher"),
        ("teacher train.steps=3", "train.steps=3: it changes nothing about who is asked or what is said"),
        ("teacher objective.weight.kind=uniform", "objective.weight.kind=uniform: it changes nothing"),
        ("teachers.judge.kind=rewrd", "did you mean 'reward'?"),
        ("teachers.judge={kind: self, every: 2}", "teachers.judge.every: it follows a student in training"),
        ("teachers.judge={kind: local, model: /nowhere}", "teachers.judge.model='/nowhere': there is no such folder"),
    ):
        assert said in fails(capsys, str(run), "--output", str(tmp_path / "x"), "--teacher", *words(given))
        assert not (tmp_path / "x" / "annotated.yaml").exists()
    assert "k=0: keep at least one" in fails(capsys, str(run), "--teacher", "teacher", "--k", "0")


def words(given: str) -> list[str]:
    return given.split() if given.startswith("teacher ") else [given]


def test_what_a_student_in_training_is_asked_is_refused(
    run: Path, server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, str(run), "--output", str(tmp_path / "x"), "--teacher", served(server, ids="union"))
    assert "teachers.big.ids=union: it is asked about what a student in training finds likely" in said


def test_records_without_a_configuration_take_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run / "records", tmp_path / "records")
    argv = [
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "cache"),
        "--teacher",
        "teacher",
    ]
    assert "has no config.yaml beside it" in fails(capsys, *argv)
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(cases.raw() | {"seed": 1}))
    assert "was written with another tokenizer" in fails(capsys, *argv, "--config", str(other))
    assert main(["annotate", *argv, "--config", str(run)]) == 0
    annotate(tmp_path / "out", tmp_path / "once more", "--teacher", "teachers.judge.kind=reward")
    assert len(records.open(tmp_path / "once more")) == 4


def test_a_teacher_that_reads_none_of_them_says_why(
    run: Path, server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.longest = 40
    line = fails(
        capsys, str(run), "--output", str(tmp_path / "out"), "--cache", str(tmp_path), "--teacher", served(server)
    )
    assert "its model reads at most 39" in line
    assert all(one.annotations[-1].skip_S.all() for one in records.open(tmp_path / "out"))


def test_an_ensemble_is_asked_with_its_members(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"kind": "local", "model": str(run / "student")}
    teachers = {"a": own, "b": own | {"dtype": "float64"}, "both": {"kind": "ensemble", "members": ["a", "b"]}}
    given = [f"teachers={json.dumps(teachers)}", "teachers.judge.kind=reward"]
    annotate(run, tmp_path / "out", "--teacher", *given)
    names = list(json.loads(capsys.readouterr().out)["teachers"])
    annotate(run, tmp_path / "again", "--teacher", *given)
    anew = [told["asked_anew"] for told in json.loads(capsys.readouterr().out)["teachers"].values()]
    assert dict(zip(names, anew, strict=True)) == {"a": 0, "b": 0, "both": 0, "judge": 4}
    first = next(iter(records.open(tmp_path / "again")))
    assert "epistemic" in first.annotations[-2].statistics
    annotate(run, tmp_path / "a alone", "--teacher", given[0], "teachers={a: " + json.dumps(own) + "}")
    assert json.loads(capsys.readouterr().out)["teachers"]["a"]["asked_anew"] == 0


def test_who_must_speak_together() -> None:
    class Reads(Stateless):
        members: Any = {}

        def annotate(self, trajectories: Any) -> list[Annotation]:
            return []

        def combine(self, trajectories: Any, said: Any) -> list[Annotation]:
            return []

    teachers: dict[str, Teacher] = {name: Reads(name=name) for name in ("a", "b", "c", "ab")}
    for name, one in teachers.items():
        object.__setattr__(one, "members", dict.fromkeys(["a", "b"] if name == "ab" else []))
    assert {*together(teachers)} == {frozenset({"a", "b", "ab"}), frozenset({"c"})}


def _record(*corrected: tuple[str, int]) -> Record:
    """An episode of two segments with annotations by name, each with so many corrected segments."""
    none, flags = np.zeros(0, np.int32), np.zeros(0, np.bool_)
    segment = Segment(none, none, none, flags, np.zeros(0, np.float32))
    task, outcome = Task("test/Env-v0", 0), Outcome(0.0, False, "terminated")
    trajectory = Trajectory(Key("run", 0, 0), task, ("student",), (segment, segment), (), outcome)
    said = (rowless(name, trajectory, segments=(segment,) * count) for name, count in corrected)
    return Record(trajectory, tuple(said))


def test_signals_follow_the_segments_that_they_are_about() -> None:
    was, said = _record(("a", 2), ("b", 1)), _record(("a", 1), ("c", 3))
    now = replace(was, annotations=merged(was.annotations, {one.teacher: one for one in said.annotations}))
    assert [(one.teacher, len(one.segments)) for one in now.annotations] == [("a", 1), ("b", 1), ("c", 3)]
    columns = {
        "trajectory": np.array(["run/0/0/0"] * 5 + ["run/0/1/0"]),
        "segment": np.array(
            [0, 1, 2, 3, 4, 4], np.int32
        ),  # the episode's two, two of a, one of b; and of another episode
        "loss/nll": np.arange(6.0),
    }
    moved = renumbered(columns, [(was, now)])
    assert moved["segment"].tolist() == [0, 1, 3, 4]
    assert moved["loss/nll"].tolist() == [0.0, 1.0, 4.0, 5.0]
    added = replace(was, annotations=(*was.annotations, *said.annotations[1:]))
    assert renumbered(columns, [(was, added)]) is columns


def test_the_store_lies_with_the_stages(run: Path, tmp_path: Path) -> None:
    assert main(["annotate", str(run), "--output", str(tmp_path / "out"), "--teacher", "teacher"]) == 0
    assert len(Store(Path(load_config(run / "config.yaml").stages.cache) / STORE)) >= 4
