"""What a page asks its reader to do: files to write, Python to run, commands to type. Only the budget of training is cut."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = (
    "train.steps=2",
    "train.tasks_per_step=2",
    "train.eval_every=0",
    "train.save_every=0",
    "evaluation.tasks=2",
    "rollout.max_new_tokens=24",
    "stages.teacher.episodes=8",
    "stages.teacher.steps=2",
    "stages.cold_start.episodes=8",
    "stages.cold_start.steps=2",
)
"""Overrides that come after those of a page."""
_FILE = re.compile(r"[Pp]ut\s+this\s+in `(\w+\.py)`:\n\n```python\n(.*?)```", re.DOTALL)


def read(name: str) -> str:
    """A page, by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def files(page: str) -> dict[str, str]:
    """The files that a reader is told to write."""
    return dict(_FILE.findall(page))


def python(page: str) -> list[str]:
    """The Python that a reader is to run: what is no file's."""
    written = files(page).values()
    return [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if text not in written]


def commands(page: str) -> list[str]:
    """What a reader types into a shell, without comments."""
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
