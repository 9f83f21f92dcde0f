"""Overrides of a configuration that is still a plain mapping: ``a.b.0.c=value``."""

from collections.abc import Mapping
from typing import Any

from agentopd.errors import ConfigError

REPLACES_PARENT = ("kind", "id")
"""Setting one of these chooses something else, so its siblings no longer apply."""
EXCLUSIVE = {"model": "new", "new": "model"}
"""Setting the one removes the other."""


def apply(raw: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of ``raw`` with ``key`` set to ``value``.

    Raises:
        ConfigError: The path goes through something that has no keys, or past the end of a list.
    """
    parts = key.split(".")
    root = _in_the_form_of(parts[0], dict(raw))
    changed: dict[str, Any] = _set(root, parts, value, "")
    return changed


def _in_the_form_of(first: str, root: dict[str, Any]) -> dict[str, Any]:
    """Says what a file said in the form that the key is in; ``env`` starts over where there are several."""
    envs, teachers = root.get("envs"), root.get("teachers")
    if first == "env" and "env" not in root:
        root["env"] = envs[0] if isinstance(envs, list | tuple) and len(envs) == 1 else {}
        root.pop("envs", None)
    elif first == "envs" and "env" in root:
        root["envs"] = [root.pop("env")]
    elif first == "teacher" and isinstance(teachers, Mapping) and "teacher" in teachers:
        root["teachers"] = {name: teacher for name, teacher in teachers.items() if name != "teacher"}
        root["teacher"] = teachers["teacher"]
    elif first == "teachers" and "teacher" in root and isinstance(teachers, Mapping | None):
        root["teachers"] = {"teacher": root.pop("teacher"), **(teachers or {})}
    return root


def _set(node: Any, parts: list[str], value: Any, path: str) -> Any:
    name, rest = parts[0], parts[1:]
    here = f"{path}.{name}" if path else name
    if isinstance(node, list | tuple):
        return _set_item(list(node), name, rest, value, here)
    if node is None and name.isdigit():
        raise ConfigError(
            f"{here}: there is no list at {path}; the parts of a single term are set without terms.{name}"
        )
    if isinstance(node, str) and path:
        node = {"id" if path == "env" or path.startswith("envs.") else "kind": node}
    if node is not None and not isinstance(node, Mapping):
        raise ConfigError(f"{here}: {path} is {node!r}, which has no keys")
    if not rest and name in REPLACES_PARENT and path:
        return {name: value}
    copy = {} if node is None else dict(node)
    copy.pop(EXCLUSIVE.get(name, ""), None)
    copy[name] = _set(copy.get(name), rest, value, here) if rest else value
    return copy


def _set_item(items: list[Any], name: str, rest: list[str], value: Any, here: str) -> list[Any]:
    if not name.isdigit() or int(name) >= len(items):
        raise ConfigError(f"{here}: a list of {len(items)} has the keys 0 to {len(items) - 1}")
    items[int(name)] = _set(items[int(name)], rest, value, here) if rest else value
    return items
