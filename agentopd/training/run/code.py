"""The code that decides what an environment says: its module, and what that imports of the same project."""

import ast
import hashlib
import sys
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium

OURS = {"envs", "tools"}
"""What of agentopd itself counts as code of environments; the rest goes by its version."""


def code_of(env: gymnasium.Env[Any, Any]) -> dict[str, str]:
    """The digests of the module in which the class of an environment, without its wrappers, stands."""
    return digests(sys.modules[type(env.unwrapped).__module__])


def digests(module: ModuleType) -> dict[str, str]:
    """The SHA-256 of the files of ``module`` and of those that it imports, directly or through one another, by module name.

    Its project is the folder on the path in which it was found. Import statements are read from the files, wherever in them they
    stand, and followed to files of that folder; of an installed package to none; of agentopd to the rooms ``envs`` and ``tools``.
    Nothing is imported for it. Not covered: modules found by name at run time, data files, and other installed packages.

    Returns:
        Nothing for a module without a file, as in an interactive session.
    """
    file = getattr(module, "__file__", None)
    if file is None:
        return {}
    root, found, waiting = _root(module.__name__, Path(file)), dict[str, str](), {module.__name__: Path(file)}
    while waiting:
        name, path = waiting.popitem()
        code = path.read_bytes()
        found[name] = hashlib.sha256(code).hexdigest()
        wanted = set(_imports(code, name if path.stem == "__init__" else name.rpartition(".")[0])) - found.keys()
        waiting |= {other: there for other in wanted if (there := _file(root, other)) is not None}
    return found


def _root(name: str, file: Path) -> Path:
    """The folder that holds the top of the package to which a module belongs."""
    above = list(file.absolute().parents)
    return above[min(name.count(".") + (file.stem == "__init__"), len(above) - 1)]


def _file(root: Path, name: str) -> Path | None:
    """The file of a module of the project."""
    top, *inner = name.split(".")
    if top == "agentopd":
        if not OURS.intersection(inner[:1]):
            return None
    elif root.name in {"site-packages", "dist-packages"}:
        return None
    path = root.joinpath(top, *inner)
    return next((at for at in (path / "__init__.py", path.with_name(f"{path.name}.py")) if at.is_file()), None)


def _imports(code: bytes, package: str) -> Iterator[str]:
    """The modules that a file may import, and the packages above each; ``from a import b`` may mean the module a.b."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):  # no Python text, for instance a compiled module
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}".strip(".") for alias in node.names]
        else:
            continue
        for name in names:
            yield from accumulate(name.split("."), "{}.{}".format)
