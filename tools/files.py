"""Files of one directory, for models: list, read, write, append, move, delete."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path

from agentopd.errors import ConfigError, EnvError, ToolError
from agentopd.tooling import cut, tool
from agentopd.tools.confined import NO_FILE, below, inner, kind_of, parts_of, put, read, refused, told_of


class Folder:
    """Tools on the files of one directory, and of nothing outside of it: ``ToolSet.of(Folder("somewhere"))``.

    Text is UTF-8. Folders are made as they are needed. What is no plain file is neither read nor changed, and a file is replaced as a
    whole; see ``agentopd.tools.confined``.

    Args:
        root: The directory. The path to it is trusted, what it holds is not.
        max_bytes: Of one file, read or written.
        max_entries: Files and folders below the root; none is added beyond.
        max_depth: Parts of a path.
        shown: Characters of an answer; the rest is cut off, which is said.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        max_bytes: int = 65_536,
        max_entries: int = 1000,
        max_depth: int = 8,
        shown: int = 4000,
    ):
        limits = {"max_bytes": max_bytes, "max_entries": max_entries, "max_depth": max_depth, "shown": shown}
        for name, limit in limits.items():
            if limit < 1:
                raise ConfigError(f"{name}={limit} must be at least 1")
        if os.open not in os.supports_dir_fd:
            raise ConfigError("file tools need a system that opens files relative to a directory: Linux or macOS")
        self.max_bytes, self.max_entries, self.max_depth, self.shown = max_bytes, max_entries, max_depth, shown
        self.use(root)

    def use(self, root: str | os.PathLike[str]) -> None:
        """Goes on in another directory, as if made anew.

        Raises:
            ConfigError: it is no directory.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise ConfigError(f"root={str(root)!r} is no directory; make it first")
        self.seen: set[str] = set()
        """Paths that were listed or read. That of the root is empty."""

    @tool(max_characters=None)
    def list_files(self, path: str = "") -> str:
        """List all files in a folder and below.

        Args:
            path: The folder. Default: all files.
        """
        found = self.entries(path)
        self.seen.add("/".join(self._parts(path)))
        filled = {name.rpartition("/")[0] for name, _ in found}
        lines = [name for name, kind in found if kind == stat.S_IFREG]
        lines += [
            f"{name}/ ({self._inside(name)})" for name, kind in found if kind == stat.S_IFDIR and name not in filled
        ]
        if closed := sum(kind == 0 for _, kind in found):
            lines.append(f"({closed} that cannot be opened)")
        if len(found) == self.max_entries:
            lines.append(f"(no more than {self.max_entries} are listed)")
        return cut("\n".join(lines) or "There are no files.", self.shown)

    @tool(max_characters=None)
    def read(self, path: str, start: int = 0) -> str:
        """Read a file.

        Args:
            path: The file.
            start: How many characters to leave out.
        """
        text = self.text(path)
        self.seen.add("/".join(self._parts(path)))
        if not text:
            return "The file is empty."
        if not 0 <= start < len(text):
            raise refused(path, f"start={start}, and it has {len(text)} characters")
        return cut(text, self.shown, start=start)

    @tool
    def write(self, path: str, text: str) -> None:
        """Write a file, anew where there is one.

        Args:
            path: The file.
            text: All that it shall hold.
        """
        *folders, name = self._file(path)
        content = text.encode(errors="replace")  # half surrogates
        if len(content) > self.max_bytes:
            raise refused(path, f"no file is larger than {self.max_bytes} bytes, and this has {len(content)}")
        with self._folder(folders, path, make=True) as folder:
            kind = kind_of(name, folder)
            if kind is None:
                self._require_room()
            elif kind != stat.S_IFREG:
                raise refused(path, NO_FILE)
            put(name, content, folder)

    @tool
    def append(self, path: str, text: str) -> None:
        """Add lines at the end of a file.

        Args:
            path: The file.
            text: The lines.
        """
        before = self.text(path)
        gap = "\n" if before and not before.endswith("\n") else ""
        self.write(path, f"{before}{gap}{text}" + ("" if text.endswith("\n") else "\n"))

    @tool
    def move(self, path: str, to: str) -> None:
        """Move or rename a file.

        Args:
            path: The file.
            to: Its new path.
        """
        (*folders, name), (*targets, new) = self._file(path), self._file(to)
        with self._folder(folders, path) as folder:
            if (kind := kind_of(name, folder)) != stat.S_IFREG:
                raise refused(path, "there is no such file" if kind is None else NO_FILE)
            with self._folder(targets, to, make=True) as target:
                if kind_of(new, target) is not None:
                    raise refused(to, "it exists already")
                os.rename(name, new, src_dir_fd=folder, dst_dir_fd=target)

    @tool
    def delete(self, path: str) -> None:
        """Delete a file, or an empty folder."""
        *folders, name = self._file(path.rstrip("/") or path)
        with self._folder(folders, path) as folder:
            kind = kind_of(name, folder)
            if kind not in (None, stat.S_IFREG, stat.S_IFDIR):
                raise refused(path, NO_FILE)
            (os.rmdir if kind == stat.S_IFDIR else os.unlink)(name, dir_fd=folder)

    def text(self, path: str) -> str:
        """All of a file.

        Raises:
            ToolError: it is no plain file, too large or no text.
        """
        *folders, name = self._file(path)
        with self._folder(folders, path) as folder:
            content = read(name, folder, self.max_bytes + 1)
        if len(content) > self.max_bytes:
            raise refused(path, f"it is larger than {self.max_bytes} bytes")
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise refused(path, "it is no text") from error

    def contents(self) -> dict[str, str]:
        """The text of each file that can be read, by path."""
        found: dict[str, str] = {}
        for path, kind in self.entries():
            with suppress(ToolError):
                found |= {path: self.text(path)} if kind == stat.S_IFREG else {}
        return found

    def entries(self, path: str = "") -> list[tuple[str, int]]:
        """Paths and kinds (``stat.S_IFREG``, ``S_IFDIR``, 0 for what cannot be opened) of what is in a folder and below; folders first."""
        parts = self._parts(path)
        with self._folder(parts, path) as folder:
            levels = below(folder, "/".join(parts), self.max_depth - len(parts))
            return list(islice(levels, self.max_entries))

    def _inside(self, path: str) -> str:
        """What is told of a folder of which nothing is listed: it may be too deep, or closed to this process."""
        with suppress(ToolError):
            if not self.entries(path):
                return "empty"
        return "what it holds is not listed"

    def _parts(self, path: str) -> list[str]:
        return parts_of(path, self.max_depth)

    def _file(self, path: str) -> list[str]:
        parts = self._parts(path)
        if not parts or path.endswith("/"):
            raise refused(path, "name a file")
        return parts

    @contextmanager
    def _folder(self, parts: Sequence[str], path: str, make: bool = False) -> Iterator[int]:
        """A descriptor of the folder at the end of ``parts``. What the system refuses inside is told of ``path``."""
        try:
            here = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise EnvError(f"the directory of the file tools cannot be opened: {error}") from error
        with ExitStack() as opened, told_of(path):
            opened.callback(os.close, here)
            for part in parts:
                if make and kind_of(part, here) is None:
                    self._require_room()
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=here)
                here = opened.enter_context(inner(here, part))
            yield here

    def _require_room(self) -> None:
        if len(self.entries()) >= self.max_entries:
            raise ToolError(f"there are {self.max_entries} files and folders, and no more fit; delete some")
