"""Configuration files: how they are read and written, and those that agentopd ships."""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from agentopd.errors import ConfigError
from agentopd.settings.problems import nearest


def load_recipe(name: str) -> dict[str, Any]:
    """The recipe called ``name``, or the one at that path.

    Raises:
        ConfigError: There is none.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        return load_yaml(path)
    files = _files()
    if name not in files:
        raise ConfigError(f"method: no recipe is called {name!r}{nearest(name, files)}; there are: {', '.join(files)}")
    return load_yaml(files[name])


def recipes() -> list[str]:
    """The names of the shipped recipes."""
    return list(_files())


def is_experimental(name: str) -> bool:
    """Whether a shipped recipe stands for a formula that was not to be had in full."""
    return _files()[name].parent.name == "experimental"


def _files() -> dict[str, Path]:
    return {path.stem: path for path in sorted((_shipped() / "methods").rglob("*.yaml"), key=lambda path: path.stem)}


def _shipped() -> Path:
    return Path(str(resources.files("agentopd.configs")))


def find(source: str | Path) -> Path:
    """The file itself, or else the shipped one of that name.

    Raises:
        ConfigError: There is neither.
    """
    path, shipped = Path(source), _shipped()
    if path.exists():
        return path
    inside = shipped / (path.relative_to("configs") if path.parts[:1] == ("configs",) else path)
    if inside.with_suffix(".yaml").exists():
        return inside.with_suffix(".yaml")
    names = sorted(file.stem for file in shipped.glob("*.yaml"))
    raise ConfigError(f"no configuration at {str(source)!r}; shipped ones are: {', '.join(names)}")


class _TwiceError(yaml.YAMLError):
    """A key stands twice in one mapping."""


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number, as it is in YAML 1.2; in PyYAML it is text. A key that stands twice is refused, of which PyYAML
    would take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping as it is written: what ``<<`` brings comes later, and may be written over."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in seen:
                raise _TwiceError(
                    f"{key.value!r} stands twice in one mapping, in lines {seen[name]} and {line}; leave one of them out"
                )
            seen[name] = line
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that :class:`_Loader` would take for numbers."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file.

    Raises:
        ConfigError: There is no file, or no mapping in it, or a key stands twice.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except _TwiceError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets the errors of bytes and of dates through
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, not a mapping of settings")
    return raw


def parse(text: str, key: str) -> Any:
    """What ``text`` means in YAML.

    Raises:
        ConfigError: It means nothing, or a key stands twice in it. The message begins with ``key``.
    """
    try:
        return yaml.load(text, _Loader)
    except _TwiceError as error:
        raise ConfigError(f"{key}: {error}") from None
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"{key}: {text!r} is not valid YAML; quote it") from None


def write(settings: Mapping[str, Any], compact: bool = False) -> str:
    """``settings`` as YAML that is read back equal; ``compact`` puts a mapping or list of plain values on one line."""
    flow = None if compact else False
    return yaml.dump(
        dict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=flow
    )
