"""Questions of reasoning-gym, answered with tools. Of some the worked steps are known; so the expert, and a teacher, can show them."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentopd.env import TextEnv
from agentopd.envs.reasoning_data import SIZE, UNANSWERED, Entry, Questions, known_answer, score
from agentopd.errors import ConfigError, EnvError
from agentopd.settings.problems import nearest
from agentopd.tooling import ToolSet, call, tool
from agentopd.tools import calculator
from agentopd.tools.named import TOOLS, Named

Step = tuple[str, dict[str, Any]]
"""A tool and its arguments."""
OWN: Mapping[str, str] = {"calculator": "calculate", "gcd": "gcd", "count": "count"}
"""Names of tools that are methods here, which the expert uses."""


class Reasoning(TextEnv):
    """Asks a question of one of the families; what is submitted is scored by the family's own scorer, which ends the episode.

    The reward is that score, from 0 to 1: many scorers give a part of it for a part of the answer. Where the worked steps are known,
    for ``FAMILIES``, the expert takes them first, one call a turn, as far as it has the tools; else it submits the known answer. With
    ``boxnet`` or ``rush_hour``, which know no answers, there is no expert.

    Args:
        families: Names of data sets of reasoning-gym, or names with settings of the data set and a ``weight`` (default 1), such as
            ``{"chain_sum": {"max_terms": 3, "weight": 2}}``. Default: those of ``FAMILIES``, with the settings there.
        tools: What can be called beside ``submit``: some of ``calculator``, ``gcd``, ``count``, ``python``, or import paths.
            Default: the first three.
        success: The least score that counts as success.
        graded: Whether the reward is the score; else it is 1 for a score of 1, and 0.
    """

    instructions = "Answer the question with the tools, one call at a time. Then submit the answer."

    def __init__(
        self,
        families: Sequence[str] | Mapping[str, Any] | None = None,
        tools: Sequence[str] = tuple(OWN),
        success: float = 1.0,
        graded: bool = True,
    ):
        if not 0 < success <= 1:
            raise ConfigError(f"success={success} must be above 0 and at most 1")
        chosen = _chosen(families)
        self._weights = [settings.pop("weight", 1.0) for settings in chosen.values()]
        for name, weight in zip(chosen, self._weights, strict=True):
            if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < math.inf:
                raise ConfigError(f"families.{name}.weight={weight!r} must be a number above 0")
        planned = {name: FAMILIES[name][1] if name in FAMILIES else {} for name in chosen}
        self._data = [Questions(name, {**planned[name], **settings}) for name, settings in chosen.items()]
        self._least, self._graded = success, graded
        self._use(tools)
        if UNANSWERED & {*chosen}:
            setattr(self, "expert", super().expert)  # noqa: B010 - the base class's own is how an environment says that it has none

    def _use(self, names: Sequence[str]) -> None:
        for name in names if not isinstance(names, str) else ():
            if ":" not in name and name not in (known := [*OWN, *TOOLS]):
                there = ", ".join(dict.fromkeys(known))
                raise ConfigError(f"tools: {name!r} is not known{nearest(name, known)}; there are: {there}")
        self._named = Named(names if isinstance(names, str) else [name for name in names if name not in OWN])
        # the expert uses these alone: others that are called alike may do something else
        own = self._own = {"submit", *(OWN[name] for name in names if name in OWN)}
        self.extra_tools = self._named.functions
        self.tools = ToolSet([*(one for one in ToolSet.of(self) if one.name in own), *self.extra_tools])

    def start(self) -> str:
        """Draws a family and one of its questions."""
        data = self._data[self._drawn()]
        self.family = data.name
        self._scorer, self._entry = data.draw(int(self.np_random.integers(SIZE)))
        self._answer = known_answer(self._entry)
        plan = FAMILIES[self.family][0](self._entry) if self.family in FAMILIES else []
        if not all(name in self._own for name, _ in plan):
            plan = []
        self._steps = plan if self._answer is None else [*plan, ("submit", {"answer": self._answer})]
        self._taken: list[Step] = []
        self._named.reset()
        return str(self._entry["question"]).strip()

    def close(self) -> None:
        """Closes the tools that were made for it."""
        self._named.close()
        super().close()

    def _drawn(self) -> int:
        if len(set(self._weights)) == 1:
            return int(self.np_random.integers(len(self._data)))
        share = self.np_random.random() * sum(self._weights)
        return next(i for i in range(len(self._data)) if share < sum(self._weights[: i + 1]))

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
        got = score(self._scorer, answer, self._entry)
        self.finish(reward=got if self._graded else float(got == 1), success=got >= self._least)
        return "Right." if got == 1 else "Partly right." if got > 0 else "Wrong."

    def expert(self) -> str:
        """The first of the worked steps that has not been taken."""
        if not self._steps:
            raise EnvError(f"reasoning-gym knows no answer to this question of {self.family}")
        name, arguments = next(step for step in self._steps if step not in self._taken)
        return call(name, **arguments)

    def privileged(self) -> dict[str, Any]:
        """The worked steps, each as the call to write and what it gives, one a line; and the answer. Nothing where it is not known."""
        if not self._steps:
            return {}
        calls = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in self._steps]
        results = [f" -> {_result(*step)}" for step in self._steps[:-1]]
        lines = [f"{call}{result}" for call, result in zip(calls, [*results, ""], strict=True)]
        return {"steps": "\n".join(lines), "answer": self._answer}


def _chosen(families: Sequence[str] | Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Settings by family."""
    given = FAMILIES if families is None else families
    if not given:
        raise ConfigError("families is empty; give names of data sets of reasoning-gym, such as [chain_sum, lcm]")
    if not isinstance(families, Mapping):
        return {name: {} for name in given}
    for name, settings in families.items():
        if not isinstance(settings, Mapping):
            raise ConfigError(f"families.{name}={settings!r}: give settings of its data set, or {{}} for none")
    return {name: dict(settings) for name, settings in families.items()}


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
