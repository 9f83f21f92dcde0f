"""Which recorded episodes teachers are asked about together, and those that they cannot read."""

import json
from pathlib import Path
from typing import Any

import pytest
import training_cases as cases
from serving_cases import Served, serving

from agentopd import records
from agentopd.__main__ import main
from agentopd.training.annotating.asking import groups
from agentopd.training.run.whole import train
from agentopd.types import Key, Outcome, Task, Trajectory


def test_episodes_of_one_task_are_always_asked_about_together() -> None:
    def of(task: int) -> Trajectory:
        return Trajectory(Key("run", 0, 0), Task("e", task), ("student",), (), (), Outcome(0.0, False, "terminated"))

    order = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 9]
    made = groups([of(task) for task in order])
    assert sorted(i for some in made for i in some) == list(range(len(order)))
    assert [{order[i] for i in some} for some in made] == [{0, 1, 2, 3, 4, 5, 6}, {7, 8, 9}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotating") / "run"
    train(cases.tiny(), folder)
    return folder


def asked(run: Path, server: Served, output: Path, **settings: Any) -> int:
    big = json.dumps({"kind": "served", "url": server.url, "top_k": 4, "patience": 30.0, **settings})
    argv = ["annotate", str(run), "--output", str(output), "--cache", str(output.parent), "--teacher"]
    return main([*argv, f"teachers.big={big}"])


def test_what_was_unreadable_once_is_so_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where nobody is asked any more, and where an earlier question is asked again for another output."""
    with serving(cases.model(1), longest=40) as server:
        for output in ("out", "out", "other"):
            assert asked(run, server, tmp_path / output) == 2
            assert "teacher 'big', trajectory run/" in (err := capsys.readouterr().err)
            assert "its model reads at most 39" in err


def test_episodes_that_it_cannot_read_are_counted_one_by_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = sorted(len(one.trajectory.segments[0]) for one in records.open(run))
    with serving(cases.model(1), longest=lengths[1] + 2) as server:
        for output in ("out", "out", "other"):
            assert asked(run, server, tmp_path / output) == 0
            assert json.loads(capsys.readouterr().out)["teachers"]["big"]["episodes_skipped"] == 2
        assert asked(run, server, tmp_path / "success", where={"success": True}) == 0
        assert "episodes_skipped" not in json.loads(capsys.readouterr().out)["teachers"]["big"]


def test_what_asks_a_student_in_training_is_refused_before_any_server_is_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = {"kind": "served", "url": "http://127.0.0.1:9", "patience": 0.5}
    given = [
        f"teachers.{name}={json.dumps(away | more)}" for name, more in (("big", {}), ("other", {"ids": "student"}))
    ]
    assert main(["annotate", str(run), "--output", str(tmp_path / "out"), "--teacher", *given]) == 2
    said = capsys.readouterr().err
    assert "teachers.other.ids=student: it is asked about what a student in training finds likely" in said
    assert "did not answer" not in said
