"""Runs whose tasks come from rows: interrupted and resumed they play the same, and other rows are refused."""

import json
import signal
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import interface_cases
import killed_runs
import pytest
import training_cases as cases
from interface_envs import PRICES

from agentopd import records
from agentopd.__main__ import main
from agentopd.config import Config, load_config
from agentopd.config.shipped import load_yaml
from agentopd.errors import ConfigError
from agentopd.rollout import TaskStream
from agentopd.rollout.data import opened
from agentopd.training.loop.build import panel_tasks
from agentopd.training.run.whole import check, train
from agentopd.types import Task


def config_of(file: Path, **data: object) -> Config:
    env = {"id": "agentopd/Questions-v0", "data": {"file": str(file), "validation": 0, "test": 0.3} | data}
    return load_config(cases.raw(steps=4, save_every=2) | {"env": env})


def write(file: Path, answer: str = "{}") -> None:
    rows = ({"question": f"What is {i} and {i}?", "answer": answer.format(2 * i), "hint": "add"} for i in range(24))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def asked(run: Path) -> list[tuple[str, object]]:
    return [(str(record.trajectory.key), record.trajectory.task.options) for record in records.open(run)]


def test_a_resumed_run_asks_what_the_uninterrupted_one_asked(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl")
    config = config_of(tmp_path / "rows.jsonl")
    train(config, tmp_path / "a" / "run")
    (tmp_path / "b").mkdir()
    short = cases.trainer(config, tmp_path / "b" / "one").river
    whole = asked(tmp_path / "a" / "run")
    assert [options for _, options in whole] == [
        dict(record.trajectory.task.options or {}) for step in range(4) for record in short.draw(step).records
    ]
    data = config.envs[0].data
    assert data is not None
    questions = [str(options["question"]) for _, options in whole if isinstance(options, dict)]
    assert len(set(questions)) == min(len(questions), opened(data).count("train"))


def test_a_run_goes_on_only_with_its_own_rows(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl")
    config, run = config_of(tmp_path / "rows.jsonl"), tmp_path / "run"
    train(config, run)
    kept = load_yaml(run / "config.yaml")["envs"][0]["data"]["fingerprint"]
    (run / "panels.json").unlink()
    before = cases.weights(train(config, run, resume=True).student)
    (run / "panels.json").unlink()
    write(tmp_path / "rows.jsonl", "{}!")
    with pytest.raises(
        ConfigError, match=rf"^env\.data: the rows of .*rows\.jsonl are others .*fingerprint {kept}, now"
    ):
        check(load_config(run / "config.yaml"), run, resume=True)
    with pytest.raises(ConfigError, match=rf"was made with envs\.0\.data\.fingerprint='{kept}'"):
        check(config, run, resume=True)
    write(tmp_path / "rows.jsonl")
    again = train(load_config(run / "config.yaml"), run, resume=True)
    assert cases.same_weights(before, cases.weights(again.student))


def test_what_is_wrong_with_rows_is_told_before_anything_is_made(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl")
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"question": "x"\n')
    with pytest.raises(ConfigError, match=r"^env\.data: .*rows\.jsonl:25: not valid JSON"):
        train(config_of(tmp_path / "rows.jsonl"), tmp_path / "run")
    write(tmp_path / "rows.jsonl")
    with pytest.raises(ConfigError, match=r"^env\.data\.test=0\.05: .*evaluation\.tasks=4|hold out no row"):
        train(config_of(tmp_path / "rows.jsonl", test=0.05), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_killed_run_of_ones_own_environment_plays_its_rows_in_the_same_order(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"items": list(items)} for items in product(PRICES, repeat=3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    raw = interface_cases.raw(rollout={"max_new_tokens": 40, "max_length": 800, "max_turns": 2})
    raw["env"]["data"] = {"file": str(file), "test": 0.2, "validation": 0.2}
    raw["train"] |= {"steps": 3, "save_every": 1, "eval_every": 1}
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert killed_runs.killed(raw, run, killed_runs.after_the_records, 2) == -signal.SIGKILL
    train(load_config(raw), run, resume=True)
    train(load_config(raw), whole)
    assert [options for _, options in asked(run)] == [options for _, options in asked(whole)]
    assert cases.same_weights(cases.saved(run), cases.saved(whole))
    config = load_config(run / "config.yaml")
    played = {split: _items(panel_tasks(config, 1, split)) for split in ("evaluation", "validation")}
    played["train"] = _items(TaskStream(config.envs, config.seed, "train")[i] for i in range(60))
    assert {tuple(dict(options)["items"]) for _, options in asked(run)} <= played["train"]  # type: ignore[call-overload]
    assert sum(map(len, played.values())) == len(set().union(*played.values()))
    assert main(["eval", str(run)]) == 0
    assert main(["rollout", str(run), "--episodes", "2", "--output", str(tmp_path / "more")]) == 0
    assert {tuple(dict(options)["items"]) for _, options in asked(tmp_path / "more")} <= played["train"]  # type: ignore[call-overload]
    file.write_text(json.dumps({"items": ["fig"]}) + "\n" + file.read_text())
    for told in (["eval", str(run)], ["train", str(run), "--resume"]):
        assert main(told) == 2


def _items(tasks: Iterable[Task]) -> set[tuple[str, ...]]:
    return {tuple((task.options or {})["items"]) for task in tasks}
