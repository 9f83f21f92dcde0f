"""``agentopd train`` as a launcher starts it, in processes of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import training_cases as cases
import yaml

pytestmark = pytest.mark.slow

LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "agentopd")


def _launched(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*LAUNCH, *arguments], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(cases.raw(steps=3, save_every=2, sharded=True)))
    return str(file)


def test_two_processes_train_from_the_command_line_and_one_goes_on(config: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = _launched("train", config, "--output", str(run))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(run)  # told once
    assert done.stderr.count("student_before: success") == 1
    finished, checkpoint = cases.saved(run), run / "checkpoints" / "checkpoint-3"
    (checkpoint / "trainer_state.json").unlink()  # as after a kill while it was written
    panels = cases.panels(run)
    del panels["student_after"]
    (run / "panels.json").write_text(json.dumps(panels))
    alone = [sys.executable, "-m", "agentopd", "train", str(run), "--resume"]
    on = subprocess.run(alone, capture_output=True, text=True, timeout=300, check=False)
    assert on.returncode == 0, on.stderr
    assert "goes on after step 2 of 3" in on.stderr
    for name, value in cases.saved(run).items():
        assert float((value - finished[name]).abs().max()) < 1e-5, name


@pytest.mark.parametrize("wrong", ["nonsense=3", "train.optimizer=nonsense", "env.id=agentopd/Nonsense-v0"])
def test_a_refused_configuration_gives_one_error(wrong: str, config: str, tmp_path: Path) -> None:
    done = _launched("train", config, wrong, "--output", str(tmp_path / "run"))
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("agentopd: ")] != []
    assert done.stderr.count("agentopd: ConfigError: ") == 1
    assert not (tmp_path / "run").exists()
