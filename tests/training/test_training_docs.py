"""The Python of docs/training.md, word for word but for the size of the run."""

import re
from pathlib import Path
from typing import Any

import pytest
import training_cases as cases

import agentopd
from agentopd.training.run import train

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_trainer_of_the_page_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def small(source: str, overrides: list[str]) -> Any:
        method, seed = overrides
        return cases.tiny(seed, method=method.removeprefix("method="))

    monkeypatch.chdir(tmp_path)
    train(cases.tiny(steps=1), "runs/first")
    monkeypatch.setattr(agentopd, "load_config", small, raising=False)
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(text.replace("max_steps=20", "max_steps=2"), names)
    assert names["trainer"].state.global_step == 2
    assert names["trainer"].args.learning_rate == names["config"].train.learning_rate
    assert re.search(r"%.*\]\n$", capsys.readouterr().out)
