"""Files below one directory, opened so that no path leads out of it.

Each part of a path is opened relative to the directory before it and never followed where it is a link, so that a link which is put there
meanwhile leads nowhere either. Plain files with one name are read and replaced; a device, a pipe, or a file that has a second name
elsewhere (a hard link) is not.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from uuid import uuid4

from agentopd.errors import ToolError
from agentopd.tooling import brief

MAX_NAME = 255
"""Bytes of a name, of which no usual file system takes more."""
NO_FILE = "it is no plain file"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REASONS: Mapping[int, str] = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "a part of the path is no folder",
    errno.ENOTEMPTY: "the folder is not empty",
}


def is_name(part: str) -> bool:
    """Whether a name has a length that file systems take, and nothing in it that cannot be seen, such as NUL or a new line."""
    return part.isprintable() and len(part.encode()) <= MAX_NAME  # half surrogates are not printable


def parts_of(path: str, max_depth: int) -> list[str]:
    """The names that a path leads through.

    Raises:
        ToolError: it begins at ``/``, goes up, is too deep, or one of them is no name.
    """
    if path.startswith("/"):
        raise refused(path, "paths begin at the top folder, without a /")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise refused(path, ".. is not allowed")
    if len(parts) > max_depth:
        raise refused(path, f"a path has at most {max_depth} parts")
    if not all(map(is_name, parts)):
        raise refused(path, f"a name has at most {MAX_NAME} bytes, and nothing in it that cannot be seen")
    return parts


def refused(path: str, why: str) -> ToolError:
    """What a model is told of a path."""
    return ToolError(f"{brief(repr(path), 80)}: {why}")


@contextmanager
def told_of(path: str) -> Iterator[None]:
    """Tells what the system refuses as a ``ToolError``, which names ``path`` and nothing of where the directory is."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        raise refused(path, _REASONS.get(number, os.strerror(number))) from error


@contextmanager
def inner(folder: int, name: str) -> Iterator[int]:
    """A descriptor of a folder in a folder."""
    descriptor = os.open(name, _FOLDER, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def kind_of(name: str, folder: int) -> int | None:
    """``stat.S_IFREG``, ``S_IFDIR``, ``S_IFLNK`` and so on; 0 for a file with several names, ``None`` where there is nothing."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return 0 if _is_shared(found) else stat.S_IFMT(found.st_mode)


def read(name: str, folder: int, limit: int) -> bytes:
    """At most ``limit`` bytes of a plain file.

    Raises:
        FileNotFoundError: there is none.
        ToolError: it is something else.
    """
    if kind_of(name, folder) not in (None, stat.S_IFREG):  # before it is opened, which on a device may do something
        raise refused(name, NO_FILE)
    with open(os.open(name, _READ, dir_fd=folder), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or _is_shared(found):
            raise refused(name, NO_FILE)
        return file.read(limit)


def put(name: str, content: bytes, folder: int) -> None:
    """Writes a new file beside the old one, and puts it in its place in one step, so that nothing else that holds the old one changes."""
    beside = f".{uuid4().hex}"
    try:
        with open(os.open(beside, _NEW, 0o666, dir_fd=folder), "wb") as file:
            file.write(content)
        os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside, dir_fd=folder)
        raise


def below(folder: int, path: str, depth: int) -> Iterator[tuple[str, int]]:
    """Paths and kinds of what is in a folder and below, ``depth`` levels of it; folders come before what is in them.

    The kind is 0 for what the tools cannot open, as what lies deeper than any path may.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        here = f"{path}/{name}" if path else name
        kind = kind_of(name, folder) if depth > 0 and is_name(name) else 0
        yield here, kind if kind in (stat.S_IFREG, stat.S_IFDIR) else 0
        if kind == stat.S_IFDIR and depth > 1:
            with suppress(OSError), inner(folder, name) as descriptor:
                yield from below(descriptor, here, depth - 1)


def _is_shared(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink != 1
