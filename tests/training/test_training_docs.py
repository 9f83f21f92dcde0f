"""The Python of docs/training.md, word for word but for the size of the run."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
import yaml
from safetensors.torch import load_file

import agentopd
from agentopd.training.loop.arguments import arguments
from agentopd.training.run.whole import train

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_trainer_of_the_page_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def small(source: str, overrides: list[str]) -> Any:
        method, seed = overrides
        return cases.tiny(seed, method=method.removeprefix("method="))

    monkeypatch.chdir(tmp_path)
    for name, steps in (("first", 1), ("better", 2)):
        train(cases.tiny(steps=steps), f"runs/{name}")
    monkeypatch.setattr(agentopd, "load_config", small, raising=False)
    names: dict[str, Any] = {}
    for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(text.replace("max_steps=20", "max_steps=2"), names)
    assert names["trainer"].state.global_step == names["adapting"].state.global_step == 2
    assert names["trainer"].args.learning_rate == names["config"].train.learning_rate
    assert re.search(r"%.*\]$", capsys.readouterr().out, re.MULTILINE)
    merged, exported = (load_file(f"runs/adapting/{name}/model.safetensors") for name in ("merged", "exported"))
    assert cases.same_weights(merged, exported)
    assert not cases.same_weights(merged, cases.saved(Path("runs/first")))


def test_the_settings_of_the_page_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (override,) = re.findall(r"'(train\.lora=.*)'", PAGE)
    assert cases.tiny(override).train.lora is not None
    monkeypatch.setattr(
        "agentopd.training.loop.arguments._require_trackers", lambda _: None
    )  # none need be installed here
    monkeypatch.setattr("agentopd.training.loop.arguments.get_token", lambda: "hf_it")
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    rows = re.findall(r"^\| `([a-z0-9_]+: [^`]*)` \|", PAGE, re.MULTILINE)
    assert len(rows) == 7
    for row in rows:
        given = yaml.safe_load(f"{{{row}}}")
        with monkeypatch.context() as patch:
            if "offload" in row:  # needs a card
                patch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
            made = arguments(cases.tiny(eval_every=1, save_every=1, arguments=given), tmp_path)
        for name, value in given.items():
            assert getattr(made, name) in (value, [value])
