"""What can be asked of the files of a directory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agentopd.envs.checkout import GOODS as WORDS

DONE = "done"
"""The answer where nothing is asked."""

MANY = 30
"""Folders of which the idle ones are removed, so that there is room for others."""

Texts = dict[str, str]
"""The texts of files, by path."""
Step = tuple[str, dict[str, str]]
"""A tool and its arguments."""


@dataclass(frozen=True)
class Task:
    """What is asked, what has to be looked at for it (an empty path is the list of files), and what is right in the end."""

    text: str
    looks: Sequence[str]
    goal: Texts
    answer: str = DONE


def _find(draw: np.random.Generator, files: Texts, word: str) -> Task:
    path, value = _put(draw, files, word, 1)[0]
    looks = [each for each in files if each <= path]
    return Task(f"What is the value of {word}?", ["", *looks], dict(files), str(value))


def _sum(draw: np.random.Generator, files: Texts, word: str) -> Task:
    placed = _put(draw, files, word, int(draw.integers(2, 4)))
    return Task(f"What is the sum of all values of {word}?", ["", *files], dict(files), str(sum(v for _, v in placed)))


def _move(draw: np.random.Generator, files: Texts, word: str) -> Task:
    moved = {f"{word}/{path.rpartition('/')[2]}" if path.endswith(".log") else path: files[path] for path in files}
    return Task(f"Move all .log files into the folder {word}.", [""], moved)


def _rename(draw: np.random.Generator, files: Texts, word: str) -> Task:
    renamed = {path.replace(".log", ".csv"): text for path, text in files.items()}
    return Task("Rename all .log files: they shall end in .csv.", [""], renamed)


def _delete(draw: np.random.Generator, files: Texts, word: str) -> Task:
    kept = {path: text for path, text in files.items() if not path.endswith(".log")}
    return Task("Delete all .log files.", [""], kept)


def _replace(draw: np.random.Generator, files: Texts, word: str) -> Task:
    [(path, _)] = _put(draw, files, word, 1)
    new = str(draw.choice([each for each in WORDS if each not in files[path]]))
    return Task(f"Replace {word} by {new} in {path}.", [path], {**files, path: files[path].replace(word, new)})


def _append(draw: np.random.Generator, files: Texts, word: str) -> Task:
    path, line = str(draw.choice(list(files))), f"{word}: {draw.integers(10, 100)}"
    return Task(f"Append this line to {path}: {line}", [], {**files, path: f"{files[path]}{line}\n"})


FAMILIES: Mapping[str, Callable[[np.random.Generator, Texts, str], Task]] = {
    "find": _find,
    "sum": _sum,
    "move": _move,
    "rename": _rename,
    "delete": _delete,
    "replace": _replace,
    "append": _append,
}
"""What draws a task about files, in which it may put a word that none of them has yet."""


def _put(draw: np.random.Generator, files: Texts, word: str, count: int) -> list[tuple[str, int]]:
    """Puts ``word`` in the place of another word into ``count`` files, or all if there are fewer: the paths and values."""
    placed = []
    for path in sorted(str(each) for each in draw.choice(list(files), min(count, len(files)), replace=False)):
        lines = files[path].splitlines()
        at, value = int(draw.integers(len(lines))), int(draw.integers(10, 100))
        lines[at] = f"{word}: {value}"
        files[path] = "\n".join([*lines, ""])
        placed.append((path, value))
    return placed


def look(path: str) -> Step:
    """The step that shows the file at a path, or the list of files where it is empty."""
    return ("read", {"path": path}) if path else ("list_files", {})


def changes(now: Texts, folders: Sequence[str], goal: Texts) -> list[Step]:
    """What turns the files ``now``, in ``folders``, into those of ``goal``. What may stand in the way goes first."""
    missing = [path for path in goal if path not in now]
    unmoved, deleted, moved, written = list(missing), [], [], []
    for path in sorted(now.keys() - goal.keys()):
        to = "" if _blocks(path, goal) else next((each for each in unmoved if goal[each] == now[path]), "")
        if to:
            unmoved.remove(to)
            moved.append(("move", {"path": path, "to": to}))
        else:
            deleted.append(("delete", {"path": path}))
    for path, text in goal.items():
        begun = now.get(path, "").rstrip("\n") + "\n"
        if path in now and text.startswith(begun) and text != begun:
            written.append(("append", {"path": path, "text": text[len(begun) :].rstrip("\n")}))
        elif path in unmoved or (path in now and begun.rstrip("\n") != text.rstrip("\n")):
            written.append(("write", {"path": path, "text": text}))
    blocking = [path for path in folders if any(f"{path}/".startswith(f"{each}/") for each in missing)]
    idle = [path for path in folders if not any(each.startswith(f"{path}/") for each in (*goal, *now))]
    deleted += [("delete", {"path": path}) for path in reversed(idle if len(folders) > MANY else blocking)]
    return [*deleted, *moved, *written]


def _blocks(path: str, goal: Iterable[str]) -> bool:
    """Whether a file stands where the goal has a folder, or below where it has a file."""
    return any(each.startswith(f"{path}/") or path.startswith(f"{each}/") for each in goal)
