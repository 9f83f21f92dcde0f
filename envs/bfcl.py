"""Bfcl: the multi-turn tasks of the Berkeley Function Calling Leaderboard, on its own simulators, judged by its own checker."""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from agentopd.env import TextEnv
from agentopd.env.splits import split_of
from agentopd.envs.bfcl_rows import CATEGORIES, Row, functions_of, official, row_of, rows_in, rows_of
from agentopd.envs.bfcl_world import Simulators, verdict, written
from agentopd.errors import ConfigError
from agentopd.settings.problems import nearest
from agentopd.tooling import Tool, ToolSet, render_action
from agentopd.types import ToolCall

DONE, LACKING = "Done.", "I cannot do that with what I was given."
"""What the expert says at the end of a turn: with calls, and without any."""


class Bfcl(TextEnv):
    """Asks for one thing after another, such as "Move the report to the folder temp", to be done by calls. Reward 1 if all was, else 0.

    An action without a call ends the user's turn; after the last one BFCL's checker compares states and answers with those of the
    ground truth. More than ``steps`` actions with calls in one turn end the episode, as in BFCL. The tools are those of the task's
    simulators; what ``miss_func`` withholds is not among them, is told in its turn's question, and is run whenever it is called, as
    BFCL does. Wrong names of functions and arguments are answered and not run; BFCL checks no types, nor does this.
    Of the numbers of the rows, those ending in 0 to 5 belong to the seeds of training and its stages, in 6 of validation, in 7 to 9 of
    evaluation. ``options`` of ``reset`` may name a row (``id``), or a split whose rows are drawn from (``split``). The family is the category.

    Args:
        categories: Out of ``CATEGORIES``.
        steps: How many actions with calls a turn may take, at least 1.
        brief: Leaves out of each description what the descriptions of all functions of its simulator begin with.
        parallel: Whether the expert makes all calls of a turn in one action, or one an action where there are no more than ``steps``.
    """

    instructions = (
        "A user asks for one thing after another. Do each with the tools, in as many actions as it takes; one action may hold several calls. "
        "An answer without a call ends the user's turn. If no tool fits, or a value is missing, do not guess: say so."
    )

    def __init__(
        self, categories: Sequence[str] = ("base",), steps: int = 20, brief: bool = False, parallel: bool = True
    ):
        if not categories:
            raise ConfigError(f"categories={categories!r}: give a list of at least one of {', '.join(CATEGORIES)}")
        for name in categories:
            if name not in CATEGORIES:
                there_are = f"there are: {', '.join(CATEGORIES)}"
                raise ConfigError(f"categories: {name!r} is not known{nearest(str(name), CATEGORIES)}; {there_are}")
        if steps < 1:
            raise ConfigError(f"steps={steps} must be at least 1")
        self.categories, self.steps, self.brief, self.parallel = tuple(categories), steps, brief, parallel
        kinds = dict.fromkeys(kind for name in categories for row in rows_of(name).values() for kind in row.classes)
        self.tools = ToolSet(self._tools(kinds))
        self._simulators: Simulators | None = None

    def start(self) -> str:
        """Draws a row, and starts its simulators."""
        self._row = row_of(self.options["id"]) if "id" in self.options else self._drawn()
        self.family = self._row.category
        self._simulators = Simulators(self._row)
        self._finished: list[list[str]] = []
        self._calls: list[ToolCall] = []
        self._actions, self._problem = 0, ""
        tools = list(self._tools(self._row.classes))
        withheld = {name for names in self._row.withheld.values() for name in names}
        self.tools = _Withholding(tools, withheld)
        self._told = {tool.name: tool for tool in tools}
        return self._question()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Counts the actions of a turn; see ``TextEnv.step``."""
        self._actions += 1
        return super().step(action)

    def respond(self, text: str) -> str:
        """Ends the user's turn: the next question, or the end of the episode."""
        if self._actions - 1 > self.steps:
            return self._too_many()
        self._finished.append([written(call.name, call.arguments) for call in self._calls])
        self._calls, self._actions = [], 0
        # The checker stops at the first turn that fails, so that its verdict on those after it is known.
        self._problem = self._problem or verdict(self._row, self._finished)
        if len(self._finished) < len(self._row.truth):
            return self._question()
        self.finish(reward=float(not self._problem))
        return "Wrong." if self._problem else "Right."

    def expert(self) -> str:
        """What the ground truth still does in this turn, then an answer. It does not mend what was done beside the ground truth."""
        left = self._left()
        if left:
            return render_action("", left if self.parallel or len(left) > self.steps else left[:1])
        return DONE if self._row.calls[len(self._finished)] else LACKING

    def privileged(self) -> dict[str, Any]:
        """The ground truth: what is left of this turn (``calls``), and of each turn (``steps``), a call a line.

        And whether the checker accepts the turns so far (``on_track``), or why it does not (``problem``).
        """
        turns = enumerate(self._row.calls, start=1)
        facts: dict[str, Any] = {
            "steps": "\n".join(f"turn {number}:\n{_lines(calls) or 'no call'}" for number, calls in turns),
            "calls": _lines(self._left()),
            "on_track": not self._problem,
        }
        return facts | ({"problem": self._problem} if self._problem else {})

    def close(self) -> None:
        """Frees the simulators."""
        self._simulators = None
        super().close()

    def _drawn(self) -> Row:
        rows = rows_in(self.categories, self.options.get("split") or split_of(self.np_random_seed))
        return rows[int(self.np_random.integers(len(rows)))]

    def _tools(self, kinds: Iterable[str]) -> Iterable[Tool]:
        for kind in kinds:
            for function in functions_of(kind):
                yield function.tool(self.brief, partial(self._run, kind))

    def _run(self, kind: str, name: str, arguments: dict[str, Any]) -> str:
        """Runs a call whose names are known."""
        assert self._simulators
        if self._actions > self.steps:
            return self._too_many()
        self._simulators.bound(kind, name, arguments)
        self._calls.append(ToolCall(name, arguments))
        return self._simulators.run(kind, name, arguments)

    def _too_many(self) -> str:
        self._problem = self._problem or f"more than {self.steps} actions with calls in a turn"
        self.finish(reward=0.0)
        return f"There were more than {self.steps} actions with calls in this turn."

    def _question(self) -> str:
        turn = len(self._finished)
        if turn not in self._row.withheld:
            return self._row.questions[turn]
        schemas = [self._told[name].schema["function"] for name in self._row.withheld[turn]]
        message: str = official("constants.default_prompts").DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_PROMPTING
        return message.format(functions=json.dumps(schemas, ensure_ascii=False))

    def _left(self) -> list[ToolCall]:
        if len(self._finished) == len(self._row.truth):
            return []
        left = list(self._row.calls[len(self._finished)])
        for call in self._calls:
            if call in left:
                left.remove(call)
        return left


class _Withholding(ToolSet):
    """Tools of which some are not shown, and run when they are called."""

    def __init__(self, tools: Sequence[Tool], withheld: set[str]):
        super().__init__(tool for tool in tools if tool.name not in withheld)
        self._all = ToolSet(tools)

    def named(self, name: str) -> Tool:
        """The tool of a name, shown or not. Who calls an unknown one is told of those that are shown."""
        return self._all.named(name) if name in self._all.names else super().named(name)


def _lines(calls: Iterable[ToolCall]) -> str:
    return "\n".join(json.dumps({"name": call.name, "arguments": dict(call.arguments)}) for call in calls)
