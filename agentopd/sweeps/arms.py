"""The arms of a sweep: sets of overrides, each with a name that a folder can have."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from agentopd.config.loading import split
from agentopd.config.shipped import load_yaml
from agentopd.errors import ConfigError

LONGEST = 100
"""Bytes of a name in UTF-8: file systems count these, and take 255."""
_SAFE = re.compile(r"[^\w.,=+-]+")
_MARKS = re.compile(r'["\[\]{} ]')


@dataclass(frozen=True, slots=True)
class Arm:
    """One set of overrides."""

    name: str
    overrides: tuple[str, ...]
    """``a.b=value``, values in YAML."""

    @property
    def keys(self) -> list[str]:
        """The settings that it asks for."""
        return [split(text)[0] for text in self.overrides]


def grid(texts: Sequence[str]) -> tuple[list[Arm], list[str]]:
    """The arms that settings stand for, and those settings that all arms have.

    Args:
        texts: ``a.b=value``. A list is a value for each arm, crossed with all other lists; a setting that is itself a list is
            written as a list of one.

    Raises:
        ConfigError: There is no list, or one is empty, or a setting is there twice.
    """
    pairs = [split(text) for text in texts]
    axes = {key: value for key, value in pairs if isinstance(value, list)}
    fixed = [text for text, (_, value) in zip(texts, pairs, strict=True) if not isinstance(value, list)]
    keys = [key for key, _ in pairs]
    if twice := [key for key in axes if keys.count(key) > 1]:
        raise ConfigError(f"{twice[0]} is given twice; give one list")
    if empty := [key for key, values in axes.items() if not values]:
        raise ConfigError(f"{empty[0]}=[]: the list holds no value; give some, or leave the setting out")
    varied = [key for key, values in axes.items() if len(values) > 1]
    short = _shortened(varied)
    arms = []
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        name = ",".join(f"{short[key]}={_told(chosen[key])}" for key in varied)
        arms.append(Arm(_safe(name), tuple(override(key, value) for key, value in chosen.items())))
    if len(arms) < 2:
        raise ConfigError(
            "there is one arm: give a setting several values, such as objective.divergence.kind=[forward_kl,reverse_kl], or a file of arms by "
            "--arms"
        )
    return _apart(arms), fixed


def listed(file: str | Path) -> list[Arm]:
    """The arms that a YAML file names, each with its settings: a mapping of keys to values, or a list of ``a.b=value``.

    Raises:
        ConfigError: It says something else.
    """
    arms = []
    for name, settings in load_yaml(Path(file)).items():
        if isinstance(settings, Mapping):
            texts = [override(str(key), value) for key, value in settings.items()]
        elif isinstance(settings, list) and all(isinstance(text, str) for text in settings):
            texts = settings
        else:
            raise ConfigError(
                f"{file}: {name}: expected settings, such as {{train.learning_rate: 1.0e-3}} or [train.learning_rate=1e-3], got {settings!r}; an "
                "arm without any is {}"
            )
        if not name or _safe(str(name)) != str(name) or str(name).startswith("."):
            raise ConfigError(
                f"{file}: {name!r} cannot be the name of a folder; take letters, digits and . , = + - _, no more than {LONGEST} bytes in all"
            )
        arms.append(Arm(str(name), tuple(texts)))
        _ = arms[-1].keys  # each is an override
    if len(arms) < 2:
        raise ConfigError(
            f"{file}: there are {len(arms)} arms, and nothing to hold against each other; name two or more"
        )
    return arms


def override(key: str, value: Any) -> str:
    """``key=value`` of a value that is no text yet."""
    return f"{key}={json.dumps(value)}"


def _shortened(keys: Sequence[str]) -> dict[str, str]:
    """The ends of keys by which they are told apart."""

    def end(key: str, parts: int) -> str:
        return ".".join(key.split(".")[-parts:])

    return {
        key: next(
            end(key, parts)
            for parts in range(1, key.count(".") + 2)
            if all(other == key or end(other, parts) != end(key, parts) for other in keys)
        )
        for key in keys
    }


def _told(value: Any) -> str:
    return value if isinstance(value, str) else _MARKS.sub("", json.dumps(value))


def _safe(name: str) -> str:
    return _SAFE.sub("-", name).encode()[:LONGEST].decode(errors="ignore")


def _apart(arms: Sequence[Arm]) -> list[Arm]:
    """Numbers the names that came out alike."""
    names = [arm.name for arm in arms]
    return [
        Arm(
            f"{arm.name}-{names[: place + 1].count(arm.name)}" if names.count(arm.name) > 1 else arm.name, arm.overrides
        )
        for place, arm in enumerate(arms)
    ]
