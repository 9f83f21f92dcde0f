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
    root = _without_long_form(dict(raw), parts[0])
    changed: dict[str, Any] = _set(root, parts, value, "")
    return changed


def _without_long_form(root: dict[str, Any], first: str) -> dict[str, Any]:
    """``env.x=`` and ``method=`` start over from what a file said in the long form; ``teacher`` moves out of ``teachers``."""
    if first == "env" and "env" not in root:
        envs = root.pop("envs", [])
        root["env"] = envs[0] if len(envs) == 1 else {}
    elif first == "method":
        root.pop("objective", None)
    elif first == "teacher" and "teacher" in root.get("teachers", {}):
        teachers = dict(root["teachers"])
        root["teacher"], root["teachers"] = teachers.pop("teacher"), teachers
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
        node = {"id" if path == "env" else "kind": node}
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
