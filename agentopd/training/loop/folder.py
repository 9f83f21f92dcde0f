"""The folder of a run: its configuration, metrics, panels, records and checkpoints."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import agentopd.run_files as names
from agentopd.config import Config, dump
from agentopd.config.differing import differences
from agentopd.config.shipped import load_yaml, parse
from agentopd.errors import ConfigError, TrainingError, describe
from agentopd.evaluation import Panel
from agentopd.training.loop.checkpoints import binding, difference, newest, require_named, step_of
from agentopd.training.loop.lock import LOCK, require_unheld


class RunFolder:
    """Where a run keeps what it makes. Everything in it is plain text, Parquet or safetensors."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / names.CONFIG
        self.metrics = self.path / names.METRICS
        self.panels = self.path / names.PANELS
        self.student = self.path / names.STUDENT
        self.adapter = self.path / "adapter"
        self.weights = self.path / "weights.json"
        self.times = self.path / names.TIMES
        self.records = self.path / names.RECORDS
        self.checkpoints = self.path / names.CHECKPOINTS
        self._spent = defaultdict[str, float](float)

    def check(self, config: Config, resume: bool) -> None:
        """Touches nothing.

        Raises:
            ConfigError: Another process is at work in the folder; or it holds another run; or there is nothing to resume, or it
                was made with another configuration.
            TrainingError: The last checkpoint does not say what it was made with.
        """
        require_unheld(self.path)
        self._check_content(config, resume)

    def _check_content(self, config: Config, resume: bool) -> None:
        if not resume:
            require_free(self.path)
            return
        if not self.config.exists():
            raise ConfigError(
                f"--resume: {self.path} holds no run (no config.yaml); leave --resume out to start one there"
            )
        require_named(self.checkpoints)
        self._require_same(config)

    def open(self, config: Config, resume: bool) -> int:
        """Claims the folder for ``config`` and returns the step to go on from, 0 for a new run. Call it inside ``lock.held``.

        Raises:
            ConfigError: The folder holds something else, as for :meth:`check`; or it cannot be written.
        """
        self._check_content(config, resume)
        if not resume:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                write_atomically(self.config, dump(config))
            except OSError as error:
                raise ConfigError(f"output: {self.path} cannot be written: {error.strerror}") from None
            return 0
        checkpoint = self.last_checkpoint()
        step = 0 if checkpoint is None else step_of(checkpoint)
        self._forget_metrics_after(step)
        return step

    def release(self) -> None:
        """Takes :meth:`open` back, before anything was made: the folder is free again."""
        for file in (self.config, self.times):
            file.unlink(missing_ok=True)

    def _require_same(self, config: Config) -> None:
        """As the run's file says, which a person may have edited since, and as its last checkpoint says."""
        try:
            old = load_yaml(self.config)
        except ConfigError as error:
            raise ConfigError(f"--resume: {error}; restore it from a copy, since it says what the run is") from None
        mine = next(differences(binding(old, config), binding(parse(dump(config), "config"), config)), None)
        if mine is not None:
            self._refuse(self.path, *mine, "resume with the run's own config.yaml")
        checkpoint = self.last_checkpoint()
        if checkpoint is not None and (edited := difference(checkpoint, config)) is not None:
            self._refuse(checkpoint, *edited, f"put {edited[0]}={edited[1]!r} back into {self.config}")

    def _refuse(self, made: Path, key: str, was: Any, is_: Any, remedy: str) -> None:
        remedy += ", or start another run with another --output"
        # schedules read the steps, so a longer run differs from its first step on
        if key == "train.steps" and self.student.exists():
            again = f"student={{model: {self.student}}} stages.cold_start=null"
            remedy += f"; to train the student of this one further, give that run {again}"
        raise ConfigError(f"--resume: {made} was made with {key}={was!r}, and this configuration has {is_!r}; {remedy}")

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        return newest(self.checkpoints)

    def log(self, row: Mapping[str, float]) -> None:
        """Appends one line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """The metrics so far; a line that was cut short by a kill is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        return [row for line in lines if (row := _row(line)) is not None]

    def _forget_metrics_after(self, step: int) -> None:
        """Moves lines past the checkpoint aside: they will be made again."""
        rows = self.history()
        kept, dropped = [r for r in rows if r["step"] <= step], [r for r in rows if r["step"] > step]
        if dropped:
            with (self.path / "metrics.superseded.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in dropped)
        write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))

    def save_panel(self, name: str, panel: Panel) -> None:
        """Adds one panel to those kept."""
        panels = self.load_panels() | {name: panel}
        write_atomically(self.panels, json.dumps({name: panel.to_dict() for name, panel in panels.items()}))
        self._save_times()

    def load_panels(self) -> dict[str, Panel]:
        """All panels by name.

        Raises:
            TrainingError: The file is damaged.
        """
        if not self.panels.exists():
            return {}
        try:
            plain = json.loads(self.panels.read_bytes())
            return {name: Panel.from_dict(panel) for name, panel in plain.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise TrainingError(
                f"{self.panels} cannot be read: {describe(error)}; restore it from a copy, or delete it and resume, to have its "
                "panels played again"
            ) from error

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Counts the seconds that its body takes to those that the run has spent on ``what``; the next panel that is saved keeps them."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._spent[what] += time.monotonic() - begin

    def _save_times(self) -> None:
        kept = names.read_times(self.times)
        for what, seconds in self._spent.items():
            kept[what] = round(kept.get(what, 0.0) + seconds, 3)
        self._spent.clear()
        write_atomically(self.times, json.dumps(kept, indent=2) + "\n")

    def save_weights(self, step: int, best: tuple[int, float] | None) -> None:
        """Writes which weights lie where.

        Args:
            step: The optimiser step after which ``student/`` was taken.
            best: Step and validation success of the best checkpoint by the panels during training, where there is one.
        """
        kept: dict[str, Any] = {"student": {"path": self.student.name, "step": step}}
        if best is not None:
            path = f"{self.checkpoints.name}/checkpoint-{best[0]}"
            kept["best"] = {"path": path, "step": best[0], "validation_success": best[1]}
        write_atomically(self.weights, json.dumps(kept, indent=2) + "\n")


def require_free(path: Path, goes_on: str = "add --resume to go on with it, or ") -> None:
    """Raises ConfigError where something lies at ``path`` already, or it cannot be made; a folder with a lock alone is free.

    ``goes_on`` is how one goes on with what lies there, where that can be done.
    """
    above = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if above != path.absolute() and not (above.is_dir() and os.access(above, os.W_OK)):
        raise ConfigError(f"output: {path} cannot be written: {above} takes no new folders; choose another place")
    if path.exists() and not (path.is_dir() and all(inside.name == LOCK for inside in path.iterdir())):
        raise ConfigError(f"output: {path} already holds a run or other files; {goes_on}choose another folder")


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file in one step, so that a kill leaves the old one or the new one."""
    aside = path.with_name(path.name + ".part")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
