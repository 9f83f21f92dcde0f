"""What one check found."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warn", "fail", "skip"]
"""``warn``: a run may go well all the same. ``fail``: it will not, or not as meant. ``skip``: there was nothing to look at."""


@dataclass(frozen=True, slots=True)
class Check:
    """A row of the table."""

    name: str
    status: Status
    found: str
    remedy: str = ""
    """What to do; empty where nothing need be done."""


def failed(name: str, error: BaseException) -> Check:
    """An error of ours: one sentence, whose last part says what to do."""
    found, _, remedy = " ".join(str(error).split()).rpartition("; ")
    return Check(name, "fail", found or remedy, remedy if found else "")
