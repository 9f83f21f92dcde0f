"""BFCL's simulators and its checker, each episode's apart from all others, in memory alone."""

import decimal
import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from importlib.util import find_spec
from itertools import count
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

from agentopd.envs.bfcl_rows import Row, module_of, official
from agentopd.errors import ToolError

MOST = 10_000
"""Exponents, digits of precision and entries of a file system beyond which a call would take time or memory without bound."""
MOST_DIGITS = 100
"""Of a whole number in a calculation."""

_UNORDERED = re.compile(r"(?<=Must be one of \{)[^{}]*|(?<=Invalid fields for update: )[^\"]*")
"""Where a simulator writes a set, whose order changes from process to process."""
_CONSTANTS = "eval_checker.multi_turn_eval.func_source_code.long_context"
"""The module whose constants the simulators import."""
_checks = count()


class Simulators:
    """Instances of the simulators of a row, of classes of their own.

    As they are, two instances share what the package keeps in modules: constants that become part of a state and are changed there,
    default arguments that grow, the precision of mpmath. So each episode executes the modules anew.
    """

    def __init__(self, row: Row):
        self._row = row
        self._classes = {kind: getattr(_own_module(module_of(kind)), kind) for kind in row.classes}
        self._stateless = official("constants.executable_backend_config").STATELESS_CLASSES
        self.live = self.new()

    def new(self) -> dict[str, Any]:
        """Further instances as the row starts them, by their class."""
        instances = {kind: made() for kind, made in self._classes.items()}
        for kind, instance in instances.items():
            if kind not in self._stateless:
                start = deepcopy(self._row.entry["initial_config"].get(kind, {}))
                instance._load_scenario(start, long_context=self._row.category == "long_context")
        return instances

    def run(self, kind: str, name: str, arguments: Mapping[str, Any]) -> str:
        """What BFCL tells a model of a call.

        Raises:
            ToolError: The simulator raised, or answered with an error. The text is BFCL's.
        """
        try:
            with decimal.localcontext():
                result = getattr(self.live[kind], name)(**arguments)
                text = _ordered(_told(result))
        except Exception as error:  # whatever a call makes a simulator raise is told to the model, as BFCL does
            raise ToolError(_ordered(f"Error during execution: {error}")) from error
        if isinstance(result, Mapping) and "error" in result:
            raise ToolError(text)
        return text

    def bound(self, kind: str, name: str, arguments: Mapping[str, Any]) -> None:
        """Refuses what would stall.

        Raises:
            ToolError: The simulator would calculate, or copy, without bound.
        """
        if kind == "MathAPI":
            for argument, value in arguments.items():
                if argument in ("exponent", "precision", "decimal_places") and _size(value) > MOST:
                    raise ToolError(f"{name}: {argument} must be from {-MOST} to {MOST}")
                if _size(value) >= 10**MOST_DIGITS:
                    raise ToolError(f"{name}: {argument} has more than {MOST_DIGITS} digits")
        if kind == "GorillaFileSystem" and _entries(self.live[kind].root) > MOST:
            raise ToolError(f"{name}: the file system holds more than {MOST} entries")


def verdict(row: Row, turns: Sequence[Sequence[str]]) -> str:
    """Why BFCL's checker does not accept what was done in the first turns; empty where it does.

    Args:
        row: The task.
        turns: The calls of each turn so far, in Python's notation.
    """
    utils = official("eval_checker.multi_turn_eval.multi_turn_utils")
    check = official("eval_checker.multi_turn_eval.multi_turn_checker").multi_turn_checker
    simulators, model = Simulators(row), f"agentopd{next(_checks)}"
    # The checker keeps instances as globals, under such names, for good; it makes those that are not there.
    instances = {
        f"{model}{who}_{row.id}_{kind}_instance": instance
        for who in ("_eval", "_ground_truth_eval")
        for kind, instance in simulators.new().items()
    }
    vars(utils).update(instances)
    done = [[list(calls)] if calls else [] for calls in turns]
    try:
        with decimal.localcontext():
            found = check(done, row.truth[: len(turns)], row.entry, row.category, model)
    except RecursionError:
        return "a folder holds itself, so that states cannot be compared"
    finally:
        for name in instances:
            del vars(utils)[name]
    return "" if found["valid"] else str(found["error_message"])


def written(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as the checker takes it. It is run as code: ``name`` and the names of ``arguments`` have to be known ones."""
    return f"{name}({', '.join(f'{argument}={value!r}' for argument, value in arguments.items())})"


def _own_module(name: str) -> ModuleType:
    """A module with objects of its own, and with a precision of its own where it calculates with mpmath."""
    module = ModuleType(name)
    exec(_code(name), vars(module))
    shared: dict[str, Any] = {}
    exec(_code(_CONSTANTS), shared)
    vars(module).update({key: value for key, value in shared.items() if key in vars(module)})
    if "mpmath" in vars(module):
        context = module.mpmath.ctx_mp.MPContext()
        vars(module)["mpmath"] = SimpleNamespace(mp=context, log=context.log)
    return module


@lru_cache
def _code(name: str) -> CodeType:
    spec = find_spec(f"bfcl_eval.{name}")
    assert spec
    assert spec.loader
    code: CodeType = spec.loader.get_code(spec.name)  # type: ignore[attr-defined]
    return code


def _told(result: Any) -> str:
    """What a function gave, as BFCL writes it."""
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        try:
            return json.dumps(result)
        except (TypeError, ValueError):
            return str(result)
    return str(result)


def _ordered(text: str) -> str:
    return _UNORDERED.sub(lambda found: ", ".join(sorted(found[0].split(", "))), text)


def _size(value: Any) -> int:
    """Of a whole number, or the largest in a list."""
    if isinstance(value, list):
        return max(map(_size, value), default=0)
    return abs(value) if isinstance(value, int) else 0


def _entries(folder: Any) -> int:
    """How many files and folders are found below, counted up to one more than ``MOST``: a folder may hold itself."""
    found, waiting = 0, [folder]
    while waiting and found <= MOST:
        inside = getattr(waiting.pop(), "contents", {})
        found += len(inside)
        waiting += inside.values()
    return found
