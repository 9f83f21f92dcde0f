"""Files that several writers may be at: who holds an unfinished one, and who gets a name.

An unfinished file lies under a hidden name of its own and is locked by whoever writes it, until it has its name or the process is gone. The kernel
gives a lock back when its process ends, however it ends: what is not locked belongs to nobody.
"""

import errno
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from agentopd.file_lock import HELD, take, take_turn

UNLINKABLE = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems say that know no second name of a file."""

_log = logging.getLogger(__name__)


@contextmanager
def unfinished(path: Path, ending: str) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new file of one's own beside ``path``, hidden, locked and open for reading and writing; whoever is done gives it its name or deletes it.

    Raises:
        OSError: It cannot be made.
    """
    while True:
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{ending}")
        with aside.open("x+b") as file:
            if _mine(file, aside):
                yield aside, file
                return


def _mine(file: IO[bytes], path: Path) -> bool:
    """Whether the lock on a file just made is taken; another writer may have found it before it was, and deleted it."""
    try:
        take(file)
    except OSError as error:
        if error.errno in HELD:
            return False
        _log.warning("%s cannot be locked (%s): let one process at a time write there", path, error.strerror)
        return True
    return _is(file, path)


def delete_abandoned(path: Path) -> None:
    """Deletes an unfinished file unless somebody is at it."""
    with taken(path) as file:
        if file is not None:
            path.unlink()


@contextmanager
def taken(path: Path) -> Iterator[IO[bytes] | None]:
    """The file at ``path``, locked; ``None`` where it is gone, or held, or cannot be locked."""
    try:
        file = path.open("r+b")
    except OSError:
        yield None
        return
    with file:
        try:
            take(file)
        except OSError:
            yield None
            return
        yield file if _is(file, path) else None


def _is(file: IO[bytes], path: Path) -> bool:
    """Whether ``path`` still names the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def place(source: Path, target: Path) -> None:
    """Gives the file ``source`` the name ``target``, which nobody has.

    Killed in between, both names may be there, of one and the same file.

    Raises:
        FileExistsError: Something has the name.
        OSError: The file system refuses.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in UNLINKABLE:
            raise
        _in_turn(target.parent, lambda: _rename(source, target))
    else:
        source.unlink()


def _in_turn(folder: Path, action: Callable[[], None]) -> None:
    """Does something while no other process does such a thing in ``folder``."""
    with (folder / ".names").open("ab") as file:
        take_turn(file)
        action()


def _rename(source: Path, target: Path) -> None:
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)
