"""Runs that kill themselves, each in a process of its own: what a power cut or an eviction does."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerState

from agentopd.__main__ import main
from agentopd.config import load_config
from agentopd.records import RecordWriter
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.recorder import Recorder
from agentopd.training.loop.river import Drawn, River
from agentopd.training.run.whole import train
from agentopd.types import Record

_processes = multiprocessing.get_context("forkserver")  # torch's threads do not survive a plain fork
_processes.set_forkserver_preload(["agentopd.training.run.whole"])


def killed(raw: dict[str, Any], folder: Path, when: Callable[[int], None], step: int) -> int:
    """Trains in a process that ``when`` makes kill itself at ``step``; its exit code."""
    process = _processes.Process(target=_train, args=(raw, folder, when, step))
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def killed_after(raw: dict[str, Any], folder: Path, seconds: float) -> int:
    """Trains, or goes on, in a process that is killed from outside after ``seconds``; its exit code, 0 where it was quicker."""
    process = _processes.Process(target=_go_on, args=(raw, folder))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _go_on(raw: dict[str, Any], folder: Path) -> None:
    train(load_config(raw), folder, resume=RunFolder(folder).config.exists())


def _train(raw: dict[str, Any], folder: Path, when: Callable[[int], None], step: int) -> None:
    when(step)
    train(load_config(raw), folder)


def terminated(argv: list[str], step: int, said: Path) -> int:
    """Runs the command ``argv`` in a process that gets SIGTERM at ``step``, its stderr kept in ``said``; its exit code."""
    process = _processes.Process(target=_command, args=(argv, step, said))
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def _command(argv: list[str], last: int, said: Path) -> None:
    draw = River.draw

    def terminated_draw(self: River, step: int) -> Drawn:
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, step)

    River.draw = terminated_draw  # type: ignore[method-assign]
    with said.open("w") as sys.stderr:
        code = main(argv)
    sys.exit(code)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after_the_records(step: int) -> None:
    """The step has been played and recorded, and the optimiser has not moved."""
    keep = Recorder.keep

    def keep_and_die(self: Recorder, drawn: Drawn, prepared: Any, signals: Any) -> None:
        keep(self, drawn, prepared, signals)
        if drawn.step == step:
            _die()

    Recorder.keep = keep_and_die  # type: ignore[method-assign]


def inside_a_checkpoint(step: int) -> None:
    """Half of the file that makes a checkpoint complete has been written."""
    save = TrainerState.save_to_json

    def save_half_and_die(self: TrainerState, json_path: str) -> None:
        save(self, json_path)
        if self.global_step == step:
            text = Path(json_path).read_text()
            assert json.loads(text)["global_step"] == step
            Path(json_path).write_text(text[: len(text) // 2])
            _die()

    TrainerState.save_to_json = save_half_and_die  # type: ignore[method-assign]


def killed_playing(argv: list[str], after: int) -> int:
    """Runs ``agentopd rollout`` in a process that kills itself once it has noted so many episodes; its exit code."""
    process = _processes.Process(target=_play, args=(argv, after))
    process.start()
    process.join(600)
    assert process.exitcode is not None
    return process.exitcode


def _play(argv: list[str], after: int) -> None:
    note, noted = RecordWriter.note, 0

    def note_and_die(self: RecordWriter, step: int, record: Record) -> None:
        nonlocal noted
        note(self, step, record)
        noted += 1
        if noted == after:
            _die()

    RecordWriter.note = note_and_die  # type: ignore[method-assign]
    main(["rollout", *argv])
