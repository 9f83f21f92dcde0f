"""Files: find, add up, move, rename, delete, replace and append in a scratch directory."""

import json
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

from agentopd.env import TextEnv
from agentopd.envs.checkout import GOODS as WORDS
from agentopd.envs.file_tasks import DONE, FAMILIES, Step, Texts, changes, look
from agentopd.errors import ConfigError
from agentopd.settings.problems import nearest
from agentopd.tooling import ToolSet, call, tool
from agentopd.tools.files import Folder

NAMES = ("bills", "cargo", "diary", "farm", "guests", "home", "index", "jobs", "kitchen", "lists", "market", "notes")
FOLDERS = ("old", "work", "shared")


class Files(TextEnv):
    """Asks for a value, a sum or a change of some files. Each line of a file is like ``pears: 34``; paths, words and numbers are drawn.

    Reward 1 for submitting when the files are as asked (all others as they were; empty lines at the end do not count) and the answer,
    where a value or a sum was asked, is right; else 0. ``submit`` ends the episode.

    Args:
        files: How many there are, 2 to 12.
        lines: Of each file, 1 to 8.
        folders: How many folders there are at most, 0 to 3.
        families: Names out of ``FAMILIES``, of which an episode draws one. Default: all.
    """

    instructions = "Do the task with the tools, one call at a time. Then submit the answer, or done."

    def __init__(self, files: int = 4, lines: int = 3, folders: int = 1, families: Sequence[str] | None = None):
        checked = (("files", files, 2, len(NAMES)), ("lines", lines, 1, 8), ("folders", folders, 0, len(FOLDERS)))
        for name, value, low, high in checked:
            if not low <= value <= high:
                raise ConfigError(f"{name}={value} must be from {low} to {high}")
        if families is not None and not families:
            raise ConfigError(f"families={families!r}: give a list of names out of {', '.join(FAMILIES)}")
        self.families = tuple(FAMILIES if families is None else families)
        for family in self.families:
            if family not in FAMILIES:
                near, there = nearest(family, FAMILIES), ", ".join(FAMILIES)
                raise ConfigError(f"families: {family!r} is not known{near}; there are: {there}")
        self.files, self.lines, self.folders = files, lines, folders
        self.folder = Folder(self._scratch(), max_bytes=4096, max_entries=64, max_depth=4, shown=1000)
        self.extra_tools = tuple(ToolSet.of(self.folder))

    def start(self) -> str:
        """Draws files and a task, and writes the files into a new directory."""
        self._remove()
        self.folder.use(self._scratch())
        self.family = self.families[int(self.np_random.integers(len(self.families)))]
        word = WORDS[int(self.np_random.integers(len(WORDS)))]
        before = self._draw(word)
        self._task = FAMILIES[self.family](self.np_random, before, word)
        for path, text in before.items():
            self.folder.write(path, text)
        steps = [*map(look, self._task.looks), *changes(before, [], self._task.goal), self._last]
        self._steps = "\n".join(json.dumps({"name": name, "arguments": arguments}) for name, arguments in steps)
        return self._task.text

    @tool
    def submit(self, answer: str = DONE) -> str:
        """Submit the answer, or done."""
        told = self._task.answer in (DONE, answer.strip())
        right = told and _trimmed(self.folder.contents()) == _trimmed(self._task.goal)
        self.finish(reward=float(right))
        return "Right." if right else "Wrong."

    def expert(self) -> str:
        """Looks at what the task is about, changes what differs from what was asked, submits."""
        now = self.folder.contents()
        looks = (path for path in self._task.looks if path not in self.folder.seen and (not path or path in now))
        folders = [path for path, kind in self.folder.entries() if kind == stat.S_IFDIR]
        steps = (*map(look, looks), *changes(now, folders, self._task.goal), self._last)
        return call(steps[0][0], **steps[0][1])

    def privileged(self) -> dict[str, Any]:
        """The worked steps, each as the call to write, one a line; and the answer, where one was asked."""
        answer = {"answer": self._task.answer} if self._task.answer != DONE else {}
        return {"steps": self._steps, **answer}

    def close(self) -> None:
        """Removes the directory."""
        self._remove()

    @property
    def _last(self) -> Step:
        return "submit", {"answer": self._task.answer}

    def _scratch(self) -> str:
        """A new directory, which is removed with this environment at the latest."""
        path = tempfile.mkdtemp(prefix="agentopd-files-")
        self._remove = weakref.finalize(self, _removed, path, os.getpid())
        return path

    def _draw(self, word: str) -> Texts:
        """Files without ``word``, at least one of each ending, by path."""
        draw = self.np_random
        words = [other for other in WORDS if other != word]
        places = ["", *(f"{name}/" for name in draw.choice(FOLDERS, self.folders, replace=False))]
        endings = draw.permutation(["txt", "log", *draw.choice(["txt", "log"], self.files - 2)])
        found: Texts = {}
        for name, ending in zip(draw.choice(NAMES, self.files, replace=False), endings, strict=True):
            chosen, place = draw.choice(words, self.lines, replace=False), places[int(draw.integers(len(places)))]
            found[f"{place}{name}.{ending}"] = "".join(f"{each}: {draw.integers(10, 100)}\n" for each in chosen)
        return dict(sorted(found.items()))


def _trimmed(files: Texts) -> Texts:
    return {path: text.rstrip("\n") for path, text in files.items()}


def _removed(path: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked process holds a copy of the environment, and not its directory
        shutil.rmtree(path, ignore_errors=True)
