"""An environment that uses what the interface gives: async tools, two calls in one turn, breakdowns, rows of data."""

import asyncio
import os
import signal
import time

import gymnasium

import agentopd
from agentopd import ToolError, tool
from agentopd.tooling import render_action
from agentopd.types import ToolCall

TILL = "interface_envs:tests/Till-v0"
PRICES = {"pear": 3, "fig": 5, "nut": 7}


class Till(agentopd.TextEnv):
    """Two things are to be paid for; their prices are looked up, both in one turn.

    Args:
        trouble: What happens to the tasks whose total is ``unlucky``, when their prices are known: ``hang`` or ``killed``.
        unlucky: That total.
    """

    instructions = "Look up both, then pay the total."

    def __init__(self, trouble: str = "", unlucky: int = 0) -> None:
        self.trouble, self.unlucky = trouble, unlucky

    def start(self) -> str:
        named = self.options.get("items")
        self.items = list(named) if named else [str(one) for one in self.np_random.choice(list(PRICES), 2)]
        self.looked = 0
        return f"Pay for {' and '.join(self.items)}."

    @property
    def total(self) -> int:
        return sum(PRICES[item] for item in self.items)

    @tool
    async def look(self, item: str) -> str:
        """Look up a price.

        Args:
            item: Of what.
        """
        await asyncio.sleep(0.001 * PRICES.get(item, 0))  # the first of two is often the last to be there
        if item not in PRICES:
            raise ToolError(f"no {item} here")
        self.looked += 1
        if self.looked == 2 and self.total == self.unlucky:
            _break(self.trouble)
        return f"{item} {PRICES[item]}"

    @tool
    def pay(self, total: int) -> str:
        """Pay.

        Args:
            total: How much.
        """
        self.finish(reward=float(total == self.total))
        return "Thank you"

    def expert(self) -> str:
        if not self.looked:
            return render_action("I look.", [ToolCall("look", {"item": item}) for item in self.items])
        return agentopd.call("pay", total=self.total)

    def privileged(self) -> dict[str, int]:
        return {"total": self.total}


def _break(trouble: str) -> None:
    if trouble == "hang":
        time.sleep(600.0)
    elif trouble == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


gymnasium.register("tests/Till-v0", entry_point="interface_envs:Till")
