"""``agentopd rollout``, killed or interrupted: the same command plays the rest."""

import json
import signal
from pathlib import Path
from typing import Any

import killed_runs
import pytest
import training_cases as cases

from agentopd import records
from agentopd.__main__ import main
from agentopd.rollout import collect
from agentopd.training.run import whole
from agentopd.types import timeless

EPISODES = 6


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    (tmp_path / "config.yaml").write_text(json.dumps(cases.raw() | {"stages": {"cache": cases.stage_cache()}}))
    settings = [
        "rollout.concurrency=2",
        "--actor",
        "expert",
        "--episodes",
        str(EPISODES),
        "--output",
        str(tmp_path / "out"),
    ]
    return [str(tmp_path / "config.yaml"), *settings]


def turns(folder: Path) -> list[list[Any]]:
    return [[timeless(turn) for turn in record.trajectory.turns] for record in records.open(folder)]


def _fails(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    assert main(["rollout", *argv]) == 2
    return capsys.readouterr().err


def test_invariant_10_the_same_command_goes_on(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole_out = tmp_path / "out", tmp_path / "again" / "out"
    assert main(["rollout", *argv[:-1], str(whole_out)]) == 0
    assert killed_runs.killed_playing(argv, after=3) == -signal.SIGKILL
    assert len(list(records.open(out).unfinished())) == 3
    assert "asked for with episodes=6, and this asks for 7; ask the same" in _fails(
        capsys, ["7" if one == "6" else one for one in argv]
    )
    left = list[int]()

    def counted(assignments: Any, policies: Any, chat: Any, settings: Any, on_done: Any) -> Any:
        left.append(len(assignments))

        def interrupted(trajectory: Any) -> None:
            on_done(trajectory)
            if len(left) == 1:
                raise KeyboardInterrupt

        return collect(assignments, policies, chat, settings, on_done=interrupted)

    monkeypatch.setattr(whole, "collect", counted)
    assert main(["rollout", *argv]) != 0
    assert "the same command goes on with the rest" in capsys.readouterr().err
    assert main(["rollout", *argv]) == 0
    assert left == [3, 2]
    assert json.loads(capsys.readouterr().out)["turns"] == sum(map(len, turns(out))) / EPISODES
    assert turns(out) == turns(whole_out)
    assert len(records.open(out)) == EPISODES
    assert "already holds a run or other files" in _fails(capsys, argv)
