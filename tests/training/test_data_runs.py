"""Runs whose tasks come from rows: interrupted and resumed they play the same, and other rows are refused."""

import json
from pathlib import Path

import pytest
import training_cases as cases

from agentopd import records
from agentopd.config import Config, load_config
from agentopd.config.shipped import load_yaml
from agentopd.errors import ConfigError
from agentopd.rollout.data import opened
from agentopd.training.run.whole import check, train


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
