"""Results that are kept by the content of what decided them."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agentopd.errors import ConfigError
from agentopd.training.loop.ranks import Ranks, joined
from agentopd.training.run.interruption import no_room
from agentopd.training.run.traces import Say


def cached(cache: str, name: str, content: Any, make: Callable[[Path], None], say: Say) -> Path:
    """The folder of a result, made if none with the same ``content``, under the same versions, was made before.

    Several processes make it together, and what the first one made is kept.

    Args:
        cache: The folder of all results, ``stages.cache``.
        name: Of the result, for messages and for whoever looks into the cache.
        content: All that decides the result, as plain data.
        make: Fills the folder that it is given.
        say: Told of a result that was there.

    Raises:
        ConfigError: The cache cannot be written.
    """
    ranks, folder = joined(), place(cache, name, content)
    if ranks.first(folder.exists):
        say(f"{name}: taken from {folder}")
        return folder
    with _aside(folder.parent) as aside:
        make(aside)
        if ranks.is_first and not folder.exists():  # another run may have been quicker
            aside.replace(folder)
    ranks.agree(lambda: None)  # the first one has put it there
    ranks.agree(lambda: _require_there(folder, ranks))
    return folder


def _require_there(folder: Path, ranks: Ranks) -> None:
    """Raises ConfigError where processes on other machines cannot read what the first one made."""
    if not folder.exists():
        raise ConfigError(
            f"stages.cache: {folder.parent}: process {ranks.rank} does not see what the first one wrote there; choose a folder that all machines "
            "share"
        )


def place(cache: str, name: str, content: Any) -> Path:
    """The folder that a result with this ``content`` has, or would have; the arguments are those of :func:`cached`."""
    versions = {package: version(package) for package in ("agentopd", "torch", "transformers")}
    digest = hashlib.sha256(json.dumps([content, versions], sort_keys=True, default=str).encode()).hexdigest()[:16]
    return Path(cache).expanduser() / f"{name}-{digest}"


@contextmanager
def _aside(cache: Path) -> Iterator[Path]:
    """A folder of this process alone, so that two runs may make the same result at once; it is gone afterwards."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix="making-", dir=cache))
    except OSError as error:
        raise ConfigError(f"stages.cache: {cache} cannot be written: {error.strerror}") from None
    try:
        yield aside
    except Exception as error:
        if (reason := no_room(error)) is None:
            raise
        raise ConfigError(
            f"stages.cache: {cache} cannot be written: {reason}; make room, or choose another folder"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
