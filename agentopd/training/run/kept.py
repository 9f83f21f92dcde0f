"""A folder of episodes that are played and kept: what was asked for, and what a call that did not end has played of it."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from agentopd import records
from agentopd.config import Config
from agentopd.config.shipped import write
from agentopd.errors import ConfigError
from agentopd.records import RecordWriter
from agentopd.records.files import StepFile
from agentopd.rollout import Assignment
from agentopd.run_files import RECORDS
from agentopd.training.loop.checkpoints import asked_otherwise
from agentopd.training.loop.folder import require_free, write_atomically
from agentopd.training.loop.lock import held, require_unheld
from agentopd.types import Key, Trajectory

ASKED = "rollout.yaml"
"""The file that says what was asked for; it is there from the first episode on."""
STEP = 0
"""The step of all episodes."""


class Kept:
    """The folder of one call, and of those before it that asked the same and did not end."""

    def __init__(self, folder: Path, config: Config, **asked: Any) -> None:
        """Touches nothing. ``asked`` is what decides the episodes beside ``config``, as plain data."""
        self._folder, self._config = folder, config
        self._asked = {**asked, "config": config.model_dump(mode="json")}
        self._open = ExitStack()

    def check(self) -> None:
        """Touches nothing.

        Raises:
            ConfigError: The folder holds something else, or all of it; or another process is at work in it; or it cannot be written.
        """
        require_unheld(self._folder)
        note = self._folder / ASKED
        if not note.exists() or (self._folder / RECORDS / str(StepFile(STEP))).exists():
            require_free(self._folder, goes_on="")
            return
        other = asked_otherwise(note, self._asked, self._config)
        if other is not None:
            key, before, is_ = other
            raise ConfigError(
                f"output: {self._folder} holds a part of the episodes that were asked for with {key}={before!r}, and this asks for {is_!r}; ask "
                "the same, to go on with the rest, or choose another folder"
            )

    @cached_property
    def writer(self) -> RecordWriter:
        """Made with the first episode: until then nothing lies there.

        Raises:
            ConfigError: Another process is at work in the folder, or it cannot be written.
        """
        self._open.enter_context(held(self._folder))
        write_atomically(self._folder / ASKED, write(self._asked))
        return RecordWriter(self._folder / RECORDS)

    def earlier(self, assignments: Sequence[Assignment]) -> dict[Key, Trajectory]:
        """What is there of ``assignments``; episodes that failed, or whose task has changed since, are played again."""
        if not (self._folder / ASKED).exists():
            return {}
        tasks, folder = (
            {one.key: one.task for one in assignments},
            self.writer.folder,
        )  # whoever was killed left to it what he had noted
        there = (record.trajectory for record in records.open(folder, superseded=True))
        return {one.key: one for one in there if one.failure is None and tasks.get(one.key) == one.task}

    def close(self) -> None:
        """Lets the folder go."""
        self._open.close()
