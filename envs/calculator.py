"""Calculator: a chain of operations to be done one at a time, each from the result of the last."""

import re
from typing import Any

from agentopd.env import TextEnv
from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import call, tool
from agentopd.tools import calculator

DEEPEST = 16
"""Operations; any result is small enough for the tool."""

_ONE_OPERATION = re.compile(r"\s*-?\d+\s*[-+*]\s*-?\d+\s*")
_WORDS = {"+": "Add {}.", "-": "Subtract {}.", "*": "Multiply by {}."}
_DISTRACTORS = (
    "{} birds sing.",
    "It is {} degrees.",
    "{} cars pass.",
    "The bus is {} minutes late.",
    "{} people wait.",
)


class Calculator(TextEnv):
    """Asks for "Start with 7. Add 5. Multiply by 3. Subtract 4.". The tool does one operation a call.

    Reward 1 for submitting the right result, which ends the episode, else 0. It takes ``depth + 1`` turns, one call a turn, if no
    tool fails.

    Args:
        depth: The number of operations, 1 to 16.
        distractors: The number of sentences in between that mean nothing, 0 to 40.
        failure_rate: The probability that a calculation is answered "unavailable, try again".
    """

    instructions = "Do the operations one at a time with calculate, then submit the result."

    def __init__(self, depth: int = 3, distractors: int = 0, failure_rate: float = 0.0):
        for name, value, least, most in (("depth", depth, 1, DEEPEST), ("distractors", distractors, 0, 40)):
            if not least <= value <= most:
                raise ConfigError(f"{name}={value} must be from {least} to {most}")
        if not 0 <= failure_rate < 1:
            raise ConfigError(f"failure_rate={failure_rate} must be at least 0 and below 1")
        self.depth, self.distractors, self.failure_rate = depth, distractors, failure_rate

    def start(self) -> str:
        """Draws a number, operations and distractors."""
        self.values: list[int] = [int(self.np_random.integers(1, 20))]
        self.expressions: list[str] = []
        sentences = [f"Start with {self.values[0]}."]
        for _ in range(self.depth):
            symbol = "+-*"[self.np_random.integers(3)]
            operand = int(self.np_random.integers(2, 6 if symbol == "*" else 20))
            self.expressions.append(f"{self.values[-1]}{symbol}{operand}")
            self.values.append(int(calculator.calculate(self.expressions[-1])))
            sentences.append(_WORDS[symbol].format(operand))
        for _ in range(self.distractors):
            sentence = _DISTRACTORS[self.np_random.integers(len(_DISTRACTORS))].format(self.np_random.integers(2, 20))
            sentences.insert(int(self.np_random.integers(1, len(sentences) + 1)), sentence)
        self.done = 0
        return " ".join(sentences)

    @tool
    def calculate(self, expression: str) -> str:
        """Do one operation.

        Args:
            expression: Two numbers with +, - or * between, for instance 12*3.
        """
        if self.np_random.random() < self.failure_rate:
            raise ToolError("unavailable, try again")
        if not _ONE_OPERATION.fullmatch(expression):
            raise ToolError("one operation at a time: two numbers with +, - or * between")
        result = calculator.calculate(expression)
        if self.done < self.depth and result == str(self.values[self.done + 1]):
            self.done += 1
        return result

    @tool
    def submit(self, result: int) -> str:
        """Submit the result.

        Args:
            result: The last result.
        """
        right = result == self.values[-1]
        self.finish(reward=float(right))
        return "Right." if right else "Wrong."

    def expert(self) -> str:
        """The first operation whose result is not known yet, then the result."""
        if self.done == self.depth:
            return call("submit", result=self.values[-1])
        return call("calculate", expression=self.expressions[self.done])

    def privileged(self) -> dict[str, Any]:
        """The result after each operation."""
        return {"steps": self.values[1:], "answer": self.values[-1]}
