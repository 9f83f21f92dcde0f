"""Files that a command leaves."""

from collections.abc import Mapping
from pathlib import Path

from agentopd.errors import ConfigError


def leave(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes texts into the folder that ``--output`` names, which is made where it is not there.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output: {error}; choose a folder that may be written") from error
