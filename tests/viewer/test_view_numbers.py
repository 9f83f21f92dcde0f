"""What the page shows is what was recorded: numbers that JSON or a browser would change, signs, who ended which call."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_view_page import data, trajectories
from view_cases import record, signals_of, toy, write_run

from agentopd.__main__ import main
from agentopd.filters import Filter
from agentopd.records import RecordWriter
from agentopd.types import Outcome, Record, ToolCall
from agentopd.viewer import write_view
from agentopd.viewer.payload import ENDLESS
from agentopd.viewer.sources import opened

ARGUMENTS = {
    "nan": (float("nan"), "NaN"),
    "id": (12345678901234567890, "12345678901234567890"),
    "share": (1.0, "1.0"),
    "number": (5, "5"),
    "text": ("5", '"5"'),
    "said": ("true", '"true"'),
    "empty": ("", '""'),
    "name": ("pears", "pears"),
    "__proto__": (None, "null"),
}


def changed(index: int, **fields: Any) -> Record:
    one = record(0, index)
    return replace(one, trajectory=replace(one.trajectory, **fields))


def test_numbers_that_no_json_has_cost_no_block(tmp_path: Path) -> None:
    turn = record().trajectory.turns[0]
    call = ToolCall("price", {name: given for name, (given, _) in ARGUMENTS.items()})
    odd = replace(turn, calls=(call,), reward=float("nan"), seconds_env=float("inf"))
    tool = {"type": "function", "function": {"name": "price", "parameters": {"default": float("inf")}}}
    task = replace(record().trajectory.task, seed=2**63 - 1)
    records = [
        changed(0, turns=(odd,), outcome=Outcome(12345.678, True, "terminated"), task=task, tools=(tool,)),
        changed(1, outcome=Outcome(float("-inf"), False, "terminated")),
        changed(2, outcome=Outcome(float("nan"), False, "terminated")),
    ]
    page = write_view(opened([write_run(tmp_path / "run", [records])]))
    one = trajectories(page)[0]
    assert one["turns"][0]["calls"][0]["arguments"] == [[name, written] for name, (_, written) in ARGUMENTS.items()]
    assert one["turns"][0]["reward"] is None
    assert one["turns"][0]["seconds"] == [0.5, ENDLESS]
    assert one["task"]["seed"] == str(2**63 - 1)
    assert one["tools"][0]["function"]["parameters"]["default"] == "inf"
    assert data(page)["index"]["columns"]["reward"] == [12345.678, -ENDLESS, None]


def test_without_signals_the_list_estimates_the_kl_of_the_student_from_the_teacher(tmp_path: Path) -> None:
    one = record()
    page = write_view(opened([write_run(tmp_path / "run", [[one]], signals=False)]))
    index = data(page)["index"]
    student = one.trajectory.segments[0].logprob_T[one.annotations[0].index_N]
    expected = float((student - one.annotations[0].taken_logprob_N).mean())
    assert expected > 0.9
    assert index["columns"]["kl"] == [pytest.approx(expected, rel=1e-3)]
    assert index["measures"]["kl"]["label"] == "KL estimate"
    assert "KL(student || teacher)" in index["measures"]["kl"]["about"]


def test_a_loss_that_is_no_divergence_is_not_called_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[record()]], signals=False)
    signals = signals_of([record()])
    signals["loss/nll"] = signals.pop("loss/divergence")
    RecordWriter(run).write_signals(0, signals)
    assert data(write_view(opened([run])))["index"]["measures"]["kl"]["label"] == "NLL"


def test_what_was_said_before_keeps_its_calls_and_thoughts(tmp_path: Path) -> None:
    opening = (
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "price", "arguments": {"item": "fig"}}}]},
        {"role": "assistant", "content": "4", "reasoning_content": "It was 4."},
    )  # fmt: skip
    one = trajectories(write_view(opened([write_run(tmp_path / "run", [[changed(0, opening=opening)]])])))[0]
    assert one["opening"][0]["calls"] == [{"name": "price", "arguments": [["item", "fig"]]}]
    assert one["opening"][1]["reasoning_content"] == "It was 4."


def test_a_page_of_some_trajectories_says_which(tmp_path: Path) -> None:
    some = opened(
        [toy(tmp_path / "run")], Filter.model_validate({"success": False, "turns": {"least": 1}, "failed": None})
    )
    index = data(write_view(some))["index"]
    assert index["where"] == "success=false turns.least=1"
    assert index["notes"] == ["Only trajectories that fit --where are here: success=false turns.least=1."]
    assert data(write_view(opened([tmp_path / "run"])))["index"]["notes"] == []


def test_a_page_takes_the_place_of_no_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy(tmp_path / "run")
    assert main(["view", str(run), "--output", "/dev/null"]) == 2
    assert "--output: /dev/null is no ordinary file; choose a file" in capsys.readouterr().err
    assert Path("/dev/null").is_char_device()


def test_log_ratios_are_the_teachers_less_the_students(tmp_path: Path) -> None:
    one = trajectories(write_view(opened([toy(tmp_path / "run")])))[1]
    at = one["tokens"]["flag"].index(0)
    signals = {name: values[at] for name, values in one["signals"].items()}
    assert signals["log_ratio/teacher"] == pytest.approx(np.log(0.3) + 0.5, abs=1e-3)
    assert signals["behaviour_logprob"] == -0.25
