"""Reading a configuration: files, overrides, short forms and recipes become one root.

A file is YAML; ``a.b=value`` overrides come after it, in order. Two keys are short forms: ``env`` for one entry of ``envs``, and
``teacher`` for the teacher of that name in ``teachers``.

``method`` (a recipe's name, a path, or the recipe itself) is what ``objective`` starts from: the keys of ``objective`` that a file
has replace those of its method, the ``teachers`` that a file has those that its method brings, and every ``objective.x=value`` goes
on top, wherever on the command line it stands. An override ``method=`` replaces the file's method and the file's ``objective``, which
belonged to it, and no other override; what it leaves out is told.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentopd.config.overrides import apply
from agentopd.config.root import Config
from agentopd.config.shipped import find, load_recipe, load_yaml, parse, write
from agentopd.errors import ConfigError
from agentopd.objective.term import TERM_PARTS
from agentopd.settings.problems import Location, explain, shown

_log = logging.getLogger(__name__)


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
        source: A YAML file, the name of a shipped one (``quickstart``), or the mapping itself.
        overrides: ``a.b=value``, values in YAML, applied in order after any ``method=``. Setting ``x.kind``, ``env.id`` or
            ``x={...}`` replaces the whole of ``x``; the method remains under ``objective={...}``, and the teachers that it brings
            under ``teachers={...}``.

    Raises:
        ConfigError: A key or a value is wrong. The message names the path, and the nearest valid key or kind.
    """
    raw = dict(source) if isinstance(source, Mapping) else load_yaml(find(source))
    if "teacher" in raw and isinstance(raw.get("teachers"), Mapping) and "teacher" in raw["teachers"]:
        raise ConfigError("give either teacher (the teacher of that name) or teachers.teacher, not both")
    pairs = [split(text) for text in overrides]
    for method in (value for key, value in pairs if key == "method"):
        _tell_left_out(raw, method)
        raw = {name: part for name, part in raw.items() if name != "objective"} | {"method": method}
    brought, raw = dict(zip(("objective", "teachers"), _recipe(raw), strict=True)), _with_recipe(raw)
    for key, value in pairs:
        if key != "method":
            raw = apply(raw, key, _over(brought[key], value) if key in brought else value)
    return build(raw)


def completed(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The whole configuration that some version wrote, with settings that came later at their defaults; as it is, where it is none any more."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(load_config(plain).model_dump(mode="json")))
    except ConfigError:
        return dict(plain)
    return found


def build(raw: Mapping[str, Any]) -> Config:
    """The configuration that a plain mapping stands for, short forms included."""
    try:
        return Config.model_validate(_long_form(raw))
    except ValidationError as error:
        raise ConfigError(explain(error, Config, _short_forms, partial(_spelt, raw))) from None


def changed(config: Config, **fields: Any) -> Config:
    """``config`` with other values of some fields, its parts held against each other again.

    Raises:
        ConfigError: They do not agree.
    """
    try:
        return Config.model_validate({**dict(config), **fields})
    except ValidationError as error:
        raise ConfigError(explain(error, Config, _short_forms)) from None


def dump(config: Config) -> str:
    """``config`` as YAML that :func:`load_config` reads back equal."""
    return write(config.model_dump(mode="json"))


def _tell_left_out(raw: Mapping[str, Any], method: Any) -> None:
    """Says which keys of ``objective`` a method from the command line replaces together with the file's own method."""
    objective = raw.get("objective", {})
    left = ", ".join(f"objective.{name}" for name in objective) if isinstance(objective, Mapping) else ""
    if left and "method" in raw:
        _log.warning(
            "method=%s leaves out %s of the configuration, which belonged to its method; to keep one, give it after the method, such as "
            "objective.weight.kind=...",
            shown(method),
            left,
        )


def split(text: str) -> tuple[str, Any]:
    """The key and the value of an override ``a.b=value``.

    Raises:
        ConfigError: It is none.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{text!r} is not an override; write key=value, such as train.steps=10")
    if key.startswith("method."):
        own = key.removeprefix("method.")
        raise ConfigError(f"{key}: method is a recipe's name; change what it says by objective.{own}={value}")
    return key, parse(value, key)


def _long_form(raw: Mapping[str, Any]) -> dict[str, Any]:
    root = dict(raw)
    if "env" in root:
        if "envs" in root:
            raise ConfigError("give either env (one environment) or envs (a weighted list), not both")
        root["envs"] = [root.pop("env")]
    envs = root.get("envs", ())
    if isinstance(envs, list | tuple):
        root["envs"] = [{"id": env} if isinstance(env, str) else env for env in envs]
    if "teacher" in root:
        root["teachers"] = _over({"teacher": root.pop("teacher")}, root.get("teachers", {}))
    return _with_recipe(root)


def _with_recipe(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Puts the recipe that ``method`` names where it starts from: under ``objective``."""
    root = {name: part for name, part in raw.items() if name != "method"}
    if "method" in raw:
        objective, teachers = _recipe(raw)
        root["objective"] = _over(objective, raw.get("objective", {}))
        teachers = {name: one for name, one in teachers.items() if name != "teacher" or "teacher" not in raw}
        if teachers:
            root["teachers"] = _over(teachers, raw.get("teachers", {}))
    return root


def _recipe(raw: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """What ``method`` stands for: what ``objective`` starts from, and the teachers that it brings; nothing where there is none."""
    method = raw.get("method", {})
    if isinstance(method, str):
        method = load_recipe(method)
    if not isinstance(method, Mapping):
        raise ConfigError(
            f"method: expected the name of a recipe, a path, or a recipe itself, got {shown(method)}; "
            "agentopd methods lists the recipes"
        )
    teachers = method.get("teachers", {})
    if not isinstance(teachers, Mapping):
        raise ConfigError(
            f"method.teachers: expected teachers by name, such as {{reference: {{kind: self}}}}, got {shown(teachers)}"
        )
    return {name: part for name, part in method.items() if name != "teachers"}, teachers


def _over(base: Mapping[str, Any], given: Any) -> Any:
    """The keys of ``given`` over those of ``base``; what is no mapping stays as it is, to be refused by name."""
    return {**base, **given} if isinstance(given, Mapping) else given


def _short_forms(location: Location) -> Iterable[str]:
    """Keys that are valid at a place besides the fields there."""
    return [*(short[-1] for short in LONG_FORMS if short[:-1] == location), *(() if location else ("method",))]


def _spelt(raw: Mapping[str, Any], location: Location) -> Location:
    """The path as the user wrote it, where that was a short form."""
    objective = raw.get("objective", {})
    given: set[Location] = {(name,) for name in raw}
    if isinstance(objective, Mapping):
        given |= {("objective", name) for name in objective}
    for short, long in LONG_FORMS.items():
        if short in given and location[: len(long)] == long:
            return short + location[len(long) :]
    return location


LONG_FORMS: Mapping[Location, Location] = {
    ("env",): ("envs", 0),
    ("teacher",): ("teachers", "teacher"),
    ("objective", "sampler"): ("objective", "sources", "fresh"),
    **{("objective", part): ("objective", "terms", 0, part) for part in TERM_PARTS},
}
"""Short forms of places, and where they stand in a whole configuration."""
