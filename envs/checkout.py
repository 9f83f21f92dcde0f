"""Checkout: look up the prices of some goods, calculate the total, submit it. Tools fail now and then."""

from collections.abc import Sequence
from typing import Any

from agentopd.env import TextEnv
from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import call, tool
from agentopd.tools import calculator

GOODS = (
    "apples",
    "beans",
    "carrots",
    "figs",
    "grapes",
    "kiwis",
    "lemons",
    "limes",
    "melons",
    "onions",
    "pears",
    "plums",
)

DEAREST = 54
"""So that two kinds of goods never cost more than three digits: small models copy four digits badly, as seldom as they see them."""

PRICES = ("{}", "it costs {}")
RESULTS = ("{}", "it is {}")
"""How a tool words its answer. It varies so that a number must be found by what it is, not by how far back it stands."""


class Checkout(TextEnv):
    """Asks "What do 3 pears and 2 plums cost?". Prices are drawn for each episode, so that they have to be looked up.

    Reward 1 for submitting the right total, which ends the episode, else 0. It takes ``items + 2`` turns, one call a turn, if no
    tool fails.

    Args:
        items: How many kinds of goods are asked for, 1 to 12.
        failure_rate: The probability that a look-up or a calculation is answered "unavailable, try again".
    """

    instructions = "Look up each price, calculate the total, then submit it."

    def __init__(self, items: int = 2, failure_rate: float = 0.1):
        if not 1 <= items <= len(GOODS):
            raise ConfigError(f"items={items} must be from 1 to {len(GOODS)}")
        if not 0 <= failure_rate < 1:
            raise ConfigError(f"failure_rate={failure_rate} must be at least 0 and below 1")
        self.items, self.failure_rate = items, failure_rate

    def start(self) -> str:
        """Draws goods, quantities and all prices."""
        names = [str(name) for name in self.np_random.choice(GOODS, self.items, replace=False)]
        quantities = self.np_random.integers(2, 10, self.items).tolist()
        self.basket: dict[str, int] = dict(zip(names, quantities, strict=True))
        prices = self.np_random.integers(11, DEAREST + 1, len(GOODS)).tolist()
        self.prices: dict[str, int] = dict(zip(GOODS, prices, strict=True))
        self.answer = sum(quantity * self.prices[name] for name, quantity in self.basket.items())
        self.seen: set[str] = set()
        self.calculated = False
        *most, last = (f"{quantity} {name}" for name, quantity in self.basket.items())
        return f"What do {', '.join(most) + ' and ' if most else ''}{last} cost?"

    @tool
    def price(self, item: str) -> str:
        """Look up the price of one item.

        Args:
            item: The item's name.
        """
        self._may_fail()
        if item not in self.prices:
            raise ToolError(f"no such item; items: {', '.join(GOODS)}")
        self.seen.add(item)
        return self._worded(PRICES, self.prices[item])

    @tool
    def calculate(self, expression: str) -> str:
        """Calculate.

        Args:
            expression: For instance 3*45+2*17.
        """
        self._may_fail()
        result = calculator.calculate(expression)
        self.calculated = self.calculated or result == str(self.answer)
        return self._worded(RESULTS, result)

    @tool
    def submit(self, total: int) -> str:
        """Submit the total.

        Args:
            total: The total price.
        """
        right = total == self.answer
        self.finish(reward=float(right))
        return "Right." if right else "Wrong."

    def expert(self) -> str:
        """The first price not seen yet, then the calculation, then the total."""
        if self.calculated:
            return call("submit", total=self.answer)
        for name in self.basket:
            if name not in self.seen:
                return call("price", item=name)
        return call("calculate", expression="+".join(f"{n}*{self.prices[name]}" for name, n in self.basket.items()))

    def privileged(self) -> dict[str, Any]:
        """The prices of what is asked for, and the total."""
        return {"prices": {name: self.prices[name] for name in self.basket}, "answer": self.answer}

    def _worded(self, wordings: Sequence[str], value: object) -> str:
        return wordings[int(self.np_random.integers(len(wordings)))].format(value)

    def _may_fail(self) -> None:
        if self.np_random.random() < self.failure_rate:
            raise ToolError("unavailable, try again")
