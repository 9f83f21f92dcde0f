"""Runs that end before their end say how to go on: after SIGTERM, and on a full disk."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import killed_runs
import pytest
import torch
import training_cases as cases
import yaml
from safetensors import SafetensorError

from agentopd.config import load_config
from agentopd.errors import ConfigError, RecordError, TrainingError
from agentopd.training.loop.lock import held
from agentopd.training.run.cache import cached
from agentopd.training.run.interruption import no_room
from agentopd.training.run.whole import train
from agentopd.training.show.display import say

resource = pytest.importorskip("resource")


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may get larger than ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_sigterm_ends_a_run_as_an_interrupt_does(tmp_path: Path) -> None:
    file, run, said = tmp_path / "config.yaml", tmp_path / "run", tmp_path / "said"
    file.write_text(yaml.safe_dump(cases.raw(method="gkd", save_every=1)))
    assert killed_runs.terminated(["train", str(file), "--output", str(run)], 1, said) == 143
    *_, onward, last = said.read_text().splitlines()
    assert onward.startswith("interrupted; to go on after step 1: agentopd train ")
    assert last == "agentopd: terminated"
    assert train(load_config(run / "config.yaml"), run, resume=True).metrics["step"] == 2


@pytest.mark.parametrize(("size", "reason"), [(8_000, "File too large"), (50_000, "is the disk full?")])
def test_a_full_disk_is_one_error_and_the_run_goes_on(size: int, reason: str, tmp_path: Path) -> None:
    """Records have no room, or the state of the optimiser has none."""
    config, run = load_config(cases.raw(method="gkd", save_every=1)), tmp_path / "run"
    train(config, tmp_path / "whole")
    with room(size), pytest.raises(TrainingError) as told:
        train(config, run)
    text = str(told.value)
    assert text.startswith(f"{run} cannot be written: ")
    assert reason in text
    assert text.endswith(f"to go on after step 0: agentopd train {run} --resume")
    train(config, run, resume=True)
    assert cases.same_weights(cases.saved(run), cases.saved(tmp_path / "whole"))
    assert cases.metrics(run) == cases.metrics(tmp_path / "whole")


def _torch(path: Path) -> None:
    torch.save(torch.zeros(4000), path)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (SafetensorError("I/O error: No such file or directory (os error 2)"), False),
        (RuntimeError("PytorchStreamReader failed reading zip archive"), False),
        (ValueError("other"), False),
    ],
)
def test_what_says_that_there_is_no_room(error: Exception, full: bool) -> None:
    assert (no_room(error) is not None) == full
    outer = RecordError("cannot write")
    outer.__cause__ = error
    assert no_room(outer) == no_room(error)


def test_torch_says_that_there_is_no_room(tmp_path: Path) -> None:
    with room(8_000), pytest.raises(RuntimeError) as told:
        _torch(tmp_path / "tensor.pt")
    assert no_room(told.value) is not None


def test_a_cache_without_room_is_named_and_left_clean(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        with room(8_000):
            _torch(folder / "tensor.pt")

    def other(folder: Path) -> None:
        raise ValueError("other")

    with pytest.raises(ConfigError, match=r"^stages\.cache: .* cannot be written: is the disk full\?.*make room"):
        cached(str(tmp_path), "teacher", None, make, say)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="other"):
        cached(str(tmp_path), "teacher", None, other, say)


def test_a_lock_without_room(tmp_path: Path) -> None:
    with room(0), pytest.raises(ConfigError, match=r"^output: .* cannot be written: File too large"), held(tmp_path):
        pytest.fail("held")


def test_a_report_that_fails_loses_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path) -> Any:
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    monkeypatch.setattr("agentopd.training.run.whole.write_report", fail)
    result = train(cases.tiny(method="gkd"), tmp_path / "run")
    assert result.metrics["step"] == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "report" in line]
    assert said[0].startswith(
        "the run is finished and kept, and only its report could not be written: UnicodeEncodeError"
    )
