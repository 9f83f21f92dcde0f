"""The data sets of reasoning-gym: which there are, how one is made and asked, and what it knows of its answers."""

import dataclasses
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gymnasium.error import DependencyNotInstalled

from agentopd.errors import ConfigError, first_line
from agentopd.settings.problems import nearest

Entry = Mapping[str, Any]
"""A question of reasoning-gym: ``question``, ``answer`` and ``metadata``."""

SIZE = 2**31
"""Questions of a data set, of which an episode draws one: neighbours in reasoning-gym's own order may be alike."""
ONE_BY_ONE = frozenset({"acre", "gsm_symbolic", "word_ladder"})
"""Data sets that work out something for all their questions first, so that each question is the only one of its own."""
REFUSED: Mapping[str, str] = {
    "composite": "it is a mixture of others; give those as families, each with its weight",
    "list_functions": "it draws from Python's global random numbers too, so that the same seed gives another question each time",
    "knight_swap": "it searches until its time is up, so that the same seed may give another question on a slower machine",
}
"""Why a data set is not to be had."""
UNANSWERED = frozenset({"boxnet", "rush_hour"})
"""Data sets that score an answer and know none."""
_KNOWN_IN: Mapping[str, str] = {
    "graph_color": "possible_answer",
    "propositional_logic": "example_answer",
    "rubiks_cube": "example_correct_answer",
}
"""Where in ``metadata`` a right answer is, for those whose ``answer`` is empty since many are right."""
_OURS = {"seed", "size"}
"""Settings that the environment decides."""


class Questions:
    """The questions of one data set, by a number below :data:`SIZE`."""

    def __init__(self, name: str, settings: Mapping[str, Any]):
        """Makes the data set, which reads its texts once and makes each question when it is asked for.

        Raises:
            ConfigError: It is not known or not to be had, or refuses a setting.
        """
        _require_known(name, settings)
        try:
            self.name, self._settings = name, json.dumps(settings)
        except TypeError as error:
            raise ConfigError(f"families.{name}: {error}; give texts, numbers, lists and mappings") from error
        self._whole = _made(name, self._settings, 0, 1 if name in ONE_BY_ONE else SIZE)

    def draw(self, number: int) -> tuple[Any, Entry]:
        """A question, and the data set that scores its answers."""
        if self.name not in ONE_BY_ONE:
            return self._whole, self._whole[number]
        alone = _made.__wrapped__(self.name, self._settings, number, 1)
        return alone, alone[0]


def known_answer(entry: Entry) -> str | None:
    """A right answer as text; ``None`` where the data set knows none."""
    if entry["answer"] is not None:
        return str(entry["answer"])
    found = entry["metadata"].get(_KNOWN_IN.get(entry["metadata"].get("source_dataset", ""), ""))
    return found if found is None or isinstance(found, str) else json.dumps(found)


def score(data: Any, answer: str, entry: Entry) -> float:
    """What the data set makes of an answer, from 0 to 1; 0 where it cannot even read it."""
    try:
        return min(max(float(data.score_answer(answer.strip(), entry)), 0.0), 1.0)
    except (
        Exception
    ):  # scorers parse what they are given, each in its own way, and some raise on what is no answer at all
        return 0.0


def _require_known(name: str, settings: Mapping[str, Any]) -> None:
    there = _registered()
    if name not in there:
        raise ConfigError(
            f"families: {name!r} is not known{nearest(name, there)}; reasoning-gym has: {', '.join(sorted(there))}"
        )
    if name in REFUSED:
        raise ConfigError(f"families: {name} cannot be asked: {REFUSED[name]}")
    fields = [field.name for field in dataclasses.fields(there[name][1]) if field.name not in _OURS]
    for setting in settings:
        if setting not in fields:
            raise ConfigError(
                f"families.{name}.{setting}: reasoning-gym refuses it: {name} has no such setting{nearest(setting, fields)}; it has: "
                f"{', '.join(fields) or 'none'}, and weight"
            )


def _registered() -> Mapping[str, Any]:
    try:
        # the package itself, not its module with the registry: that is there long before another thread, which imports, has filled it
        import reasoning_gym
    except ImportError as error:
        raise DependencyNotInstalled("reasoning-gym is not installed; run pip install reasoning-gym") from error
    there: Mapping[str, Any] = reasoning_gym.factory.DATASETS
    return there


def _tuples(value: Any) -> Any:
    """What is a list in a configuration is a tuple to reasoning-gym."""
    if isinstance(value, Mapping):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@lru_cache(maxsize=256)
def _made(name: str, settings: str, seed: int, size: int) -> Any:
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=size, **_tuples(json.loads(settings)))
    except Exception as error:  # each data set looks at its settings in its own way, some while they are used
        raise ConfigError(f"families.{name}: reasoning-gym refuses {settings}: {first_line(error)}") from error
