"""A run that ends before its end: what is said, so that a person can go on with it."""

import errno
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from agentopd.errors import PolicyError, TeacherError, TrainingError
from agentopd.training.loop.checkpoints import step_of
from agentopd.training.loop.folder import RunFolder
from agentopd.training.show.display import say

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What systems say where a disk, a share of it, or a file takes no more."""
_RUST = re.compile(r"\(os error (\d+)\)")
_TORCH = re.compile(r"inline_container.*unexpected pos|PytorchStreamWriter failed", re.DOTALL)
"""All that ``torch.save`` says: it loses what the system said."""


@contextmanager
def resumable(folder: RunFolder) -> Iterator[None]:
    """Says how to go on with a run that a person interrupts, that an engine or a teacher stops, or that has no room to write.

    Raises:
        TrainingError: The disk is full.
        PolicyError: The engine's own, with the command that goes on.
        TeacherError: Likewise, the teacher's.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; {_onward(folder)}")
        raise
    except (PolicyError, TeacherError) as error:
        if folder.config.exists():  # else the run had not begun, and its folder is free again
            error.args = (f"{error}; {_onward(folder)}",)
        raise
    except Exception as error:
        if (reason := no_room(error)) is None:
            raise
        raise TrainingError(
            f"{folder.path} cannot be written: {reason}; nothing that is kept there is lost: make room, and then, "
            f"{_onward(folder)}"
        ) from error


def _onward(folder: RunFolder) -> str:
    checkpoint = folder.last_checkpoint()
    step = step_of(checkpoint) if checkpoint else 0
    command = shlex.join(["agentopd", "train", str(folder.path), "--resume"])
    return f"to go on after step {step}: {command}"


def no_room(error: BaseException | None) -> str | None:
    """Why something could not be written, where ``error`` or what caused it says that there is no room; else ``None``."""
    while error is not None:
        said = " ".join(str(error).split())
        if isinstance(error, OSError) and error.errno in FULL:
            return said
        number = _RUST.search(said)  # safetensors and tokenizers raise errors of their own
        if number is not None and int(number[1]) in FULL:
            return said
        if isinstance(error, RuntimeError) and _TORCH.search(said):
            return f"is the disk full? ({said})"
        error = error.__cause__
    return None
