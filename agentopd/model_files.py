"""What is wrong with the files of a model, said by the setting ``model`` that names them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentopd import gguf
from agentopd.errors import ConfigError, first_line


def check_folder(name: str, needed: str) -> None:
    """Names what is wrong with a local path, which transformers would take for a hub id."""
    folder = Path(name).expanduser()
    if gguf.is_gguf(name):
        return
    if not folder.exists() and (folder.is_absolute() or name.startswith((".", "~"))):
        raise ConfigError(
            f"model={name!r}: there is no such folder; give one that is there, or the id of a model on the hub"
        )
    if folder.is_dir() and not (folder / needed).exists():
        raise ConfigError(
            f"model={name!r}: the folder has no {needed}; give one that save_pretrained of a model and of its tokenizer wrote, as RUN/student"
        )


def check_whole(name: str, report: Mapping[str, Any]) -> None:
    """Raises ConfigError where weights are missing, or of another shape than the configuration says."""
    remedy = "give the config.json and the weights that were saved together"
    if lacking := sorted(report["missing_keys"]):
        raise ConfigError(
            f"model={name!r} lacks weights that its config.json asks for, such as {lacking[0]!r}; {remedy}"
        )
    if odd := sorted(report["mismatched_keys"]):
        key, stored, asked = odd[0]
        raise ConfigError(
            f"model={name!r} has weights of other shapes than its config.json asks for, such as {key!r}: {list(stored)} instead of "
            f"{list(asked)}; {remedy}"
        )


def unloadable(name: str, error: Exception, what: str = "cannot be loaded") -> ConfigError:
    """What a loader's ``error`` means for the model ``name``."""
    if gguf.is_gguf(name):
        if damage := gguf.damage(name):
            return ConfigError(
                f"model={name!r}: the GGUF file cannot be read ({damage}), so it is cut off or damaged; fetch it again"
            )
        remedy = "give a file of an architecture that transformers reads, or the model's own folder"
    elif Path(name).expanduser().is_dir():
        remedy = "restore what is wrong in the folder, or give another"
    else:
        remedy = "give a folder, or the id of a model that the hub or its local cache holds"
    return ConfigError(f"model={name!r} {what}: {first_line(error)}; {remedy}")
