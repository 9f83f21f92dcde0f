"""Questions of reasoning-gym, answered with tools. Their worked steps are known, so there is an expert, and facts for a teacher."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from gymnasium.error import DependencyNotInstalled

from agentopd.env import TextEnv
from agentopd.errors import ConfigError
from agentopd.settings.problems import nearest
from agentopd.tooling import call, tool
from agentopd.tools import calculator

Step = tuple[str, dict[str, Any]]
"""A tool and its arguments."""
Entry = Mapping[str, Any]
"""A question of reasoning-gym: ``question``, ``answer`` and ``metadata``."""

SIZE = 2**31
"""Questions of a family, of which an episode draws one: neighbours in reasoning-gym's own order may be alike."""


class Reasoning(TextEnv):
    """Asks a question of one of the families; the reward is 1 for the right answer, submitted, which ends the episode, else 0.

    It takes two turns or three, one call a turn: what is worked out, then ``submit``.

    Args:
        families: Names out of ``FAMILIES``, or names with settings of the dataset in reasoning-gym, such as
            ``{"chain_sum": {"max_terms": 3}}``. Default: all, with the settings of ``FAMILIES``.
    """

    instructions = "Answer the question with the tools, one call at a time. Then submit the answer."

    def __init__(self, families: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None):
        if isinstance(families, str):
            raise ConfigError(f"families={families!r}: give a list, such as [{families}]")
        names = FAMILIES if families is None else families
        chosen = dict(families) if isinstance(families, Mapping) else {name: {} for name in names}
        for name in chosen:
            if name not in FAMILIES:
                raise ConfigError(
                    f"families: {name!r} is not known{nearest(name, FAMILIES)}; there are: {', '.join(FAMILIES)}"
                )
            if not isinstance(chosen[name], Mapping):
                raise ConfigError(f"families.{name}={chosen[name]!r}: give settings of its dataset, or {{}} for none")
        if not chosen:
            raise ConfigError(f"families is empty; give at least one of {', '.join(FAMILIES)}")
        self._datasets = [(name, _dataset(name, _frozen(FAMILIES[name][1], given))) for name, given in chosen.items()]

    def start(self) -> str:
        """Draws a family and one of its questions."""
        self.family, self._dataset = self._datasets[int(self.np_random.integers(len(self._datasets)))]
        self._entry: Entry = self._dataset[int(self.np_random.integers(SIZE))]
        plan, _ = FAMILIES[self.family]
        self._steps = [*plan(self._entry), ("submit", {"answer": str(self._entry["answer"])})]
        self._taken: list[Step] = []
        return str(self._entry["question"]).strip()

    @tool
    def calculate(self, expression: str) -> str:
        """Calculate.

        Args:
            expression: For instance 3*45+17.
        """
        self._taken.append(("calculate", {"expression": expression}))
        return calculator.calculate(expression)

    @tool
    def gcd(self, a: int, b: int) -> str:
        """Greatest common divisor."""
        self._taken.append(("gcd", {"a": a, "b": b}))
        return str(math.gcd(a, b))

    @tool
    def count(self, letter: str, text: str) -> str:
        """Count a letter in a text."""
        self._taken.append(("count", {"letter": letter, "text": text}))
        return str(text.lower().count(letter.lower())) if letter else "0"

    @tool
    def submit(self, answer: str) -> str:
        """Submit the answer."""
        right = self._dataset.score_answer(answer.strip(), self._entry) == 1.0
        self.finish(reward=float(right))
        return "Right." if right else "Wrong."

    def expert(self) -> str:
        """The first of the worked steps that has not been taken."""
        name, arguments = next(step for step in self._steps if step not in self._taken)
        return call(name, **arguments)

    def privileged(self) -> dict[str, Any]:
        """The worked steps, each as the call to write and what it gives, one a line; and the answer."""
        calls = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in self._steps]
        results = [f" -> {_result(*step)}" for step in self._steps[:-1]]
        lines = [f"{call}{result}" for call, result in zip(calls, [*results, ""], strict=True)]
        return {"steps": "\n".join(lines), "answer": str(self._entry["answer"])}


def _result(name: str, arguments: Mapping[str, Any]) -> str:
    if name == "calculate":
        return calculator.calculate(arguments["expression"])
    if name == "gcd":
        return str(math.gcd(arguments["a"], arguments["b"]))
    return str(arguments["text"].lower().count(arguments["letter"].lower()))


def _chain_sum(entry: Entry) -> list[Step]:
    return [_calculate(str(entry["metadata"]["expression"]).replace(" ", ""))]


def _leg_counting(entry: Entry) -> list[Step]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    counts = entry["metadata"]["animals"].items()
    return [_calculate("+".join(f"{count}*{ANIMALS[animal]}" for animal, count in counts))]


def _letter_counting(entry: Entry) -> list[Step]:
    asked = entry["metadata"]
    return [("count", {"letter": asked["target_letter"], "text": " ".join(asked["span"])})]


def _lcm(entry: Entry) -> list[Step]:
    a, b = entry["metadata"]["numbers"]
    return [("gcd", {"a": a, "b": b}), _calculate(f"{a}*{b}/{math.gcd(a, b)}")]


def _simple_equations(entry: Entry) -> list[Step]:
    """Of ``84*t + 4370 = 9410``: ``9410-4370``, then ``5040/84``."""
    left, right = str(entry["metadata"]["equation"]).replace(" ", "").split("=")
    terms = [term if term[0] in "+-" else f"+{term}" for term in re.findall(r"[+-]?[^+-]+", left)]
    [unknown] = [term for term in terms if term[-1].isalpha()]  # reasoning-gym simplifies what it asks
    factor = unknown[:-1].removesuffix("*").removeprefix("+")
    factor = f"{factor}1" if factor in ("", "-") else factor
    constants = [term for term in terms if term != unknown]
    if not constants:
        return [_calculate(f"{right}/{factor}")]
    moved = right + "".join(f"{'-' if term[0] == '+' else '+'}{term[1:]}" for term in constants)
    return [_calculate(moved), _calculate(f"{calculator.calculate(moved)}/{factor}")]


def _calculate(expression: str) -> Step:
    return "calculate", {"expression": expression}


FAMILIES: Mapping[str, tuple[Callable[[Entry], list[Step]], Mapping[str, Any]]] = {
    "chain_sum": (_chain_sum, {"min_terms": 3, "max_terms": 4, "min_digits": 2, "max_digits": 3}),
    "leg_counting": (_leg_counting, {"min_animals": 2, "max_animals": 3}),
    "letter_counting": (_letter_counting, {"min_words": 4, "max_words": 6}),
    "lcm": (_lcm, {"min_value": 10, "max_value": 200}),
    "simple_equations": (_simple_equations, {"max_terms": 3}),
}
"""What works each family's questions out, up to the answer, and the settings of its dataset."""


def _frozen(*settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Settings, the later ones over the earlier, as a key of a cache."""
    merged = {name: value for each in settings for name, value in each.items()}
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in merged.items())


@lru_cache(maxsize=64)
def _dataset(name: str, settings: tuple[tuple[str, Any], ...]) -> Any:
    """The dataset, which reads its texts once and makes each question when it is asked for."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise DependencyNotInstalled("reasoning-gym is not installed; run pip install reasoning-gym") from error
    try:
        return reasoning_gym.create_dataset(name, seed=0, size=SIZE, **dict(settings))
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"families.{name}: reasoning-gym refuses {dict(settings)}: {error}") from error
